"""Rules that a handler sets on its own container are kept for the next run of the app, unless it is fresh."""

from __future__ import annotations

from pathlib import Path

from pyinterceptor.bindings.state import state_of_file
from pyinterceptor.paths import STATE
from pyinterceptor.serving.kept import FILE
from tests.e2e.test_run import run
from tests.world import World

APP = """
from pyinterceptor import App, Container, Response

class Sandbox(Container):
    enable_internet = False

@Sandbox.outbound_handlers
async def {name}(request, env, ctx):
    return Response(ctx.params)

@Sandbox.outbound_by_host("my.set")
async def give(request, env, ctx):
    await env.SANDBOX.get_by_name(ctx.container_name).set_outbound_by_host("my.kv", "{name}", "kept")
    return Response("set")

app = App(containers=[Sandbox], bindings={{"SANDBOX": Sandbox}})
"""
STATUS = ["curl", "-s", "-m", "20", "-w", " %{http_code}"]
KEPT = "pyinterceptor: Sandbox 'run': rules of an earlier run are in force: my.kv: say; reset_outbound() removes them"


def test_the_next_run_finds_the_rules_says_so_in_one_line_and_fresh_ignores_them(world: World, tmp_path: Path) -> None:
    app = tmp_path / "an_app.py"
    app.write_text(APP.format(name="say"))
    ran = run(str(app), "--", *STATUS, "http://my.set/")
    assert ran.stdout == b"set 200"
    assert b"earlier run" not in ran.stderr
    kept = STATE / state_of_file(str(app)) / FILE
    assert kept.stat().st_mode & 0o777 == 0o600
    ran = run(str(app), "--", *STATUS, "http://my.kv/")
    assert ran.stdout == b"kept 200"
    assert ran.stderr.decode().splitlines().count(KEPT) == 1
    ran = run("--fresh", str(app), "--", *STATUS, "http://my.kv/")
    assert ran.stdout == b" 000"
    assert KEPT not in ran.stderr.decode()
    app.write_text(APP.format(name="tell"))
    ran = run(str(app), "--", *STATUS, "-o", "/dev/null", "http://my.kv/")
    assert ran.stdout == b" 520"
    assert "Sandbox 'run': my.kv is refused: outbound_handlers has no 'say' any more" in ran.stderr.decode()
