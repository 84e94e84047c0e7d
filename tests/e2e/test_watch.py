"""`run --watch`: a changed app's rules are in force without a new start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.world import World

ROOT = Path(__file__).parents[2]
APP = """
from pyinterceptor import App, Container, Response

class Sandbox(Container):
    enable_internet = False

@Sandbox.outbound_by_host("{host}")
def answer(request, env, ctx):
    return Response("{text}\\n")

app = App(containers=[Sandbox])
"""
# Prints each new answer of both hosts, until both have the second one.
ASK = """
while [ "$all" != "second second" ]; do
  all="$(curl -s http://one.kv/) $(curl -s http://two.kv/)"
  [ "$all" = "$last" ] || echo "$all"
  last=$all
done
"""


def replace(path: Path, text: str) -> None:
    """Replaces the file at once, as editors do."""
    path.with_suffix(".new").write_text(text)
    os.replace(path.with_suffix(".new"), path)


def test_the_rules_of_a_changed_app_are_in_force_and_a_wrong_app_changes_nothing(
    world: World, tmp_path: Path
) -> None:
    app = tmp_path / "app.py"
    app.write_text(APP.format(host="one.kv", text="first"))
    command = [sys.executable, "-m", "pyinterceptor", "run", "--watch", str(app), "bash", "-c", ASK]
    pipe, environment = subprocess.PIPE, {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=tmp_path, env=environment) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert "is read-only inside, because the app is loaded from it" in running.stderr.readline()
        assert running.stdout.readline() == "first \n"
        replace(app, "def broken(:\n")
        complaint = f"pyinterceptor: {app}:1: SyntaxError: invalid syntax; the rules stay as they were\n"
        assert running.stderr.readline() == complaint
        replace(app, APP.format(host="not a host", text="second"))
        assert running.stderr.readline().endswith("; the rules stay as they were\n")
        replace(app, APP.format(host="*.kv", text="second"))
        assert running.stderr.readline() == f"pyinterceptor: {app}: its rules are in force\n"
        assert running.stdout.readlines()[-1] == "second second\n"
        assert running.wait() == 0
    assert [path.name for path in tmp_path.iterdir()] == ["app.py"]  # nothing compiled
