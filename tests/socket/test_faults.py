"""A call that fails ends one flow: see faulty.py."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

HERE = Path(__file__).parent
CALLS = 16  # functions; each is called at least once


def test_each_call_that_fails_ends_its_flow_alone_and_leaves_nothing(tmp_path: Path) -> None:
    """The next flow works, another container's too, and no descriptor, name or place in a budget stays in use."""
    library = tmp_path / "faults.so"
    compiler = sysconfig.get_config_var("CC").split()[0]
    flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([compiler, *flags, "-o", str(library), str(HERE / "faults.c"), "-ldl"], check=True)
    run = subprocess.run(
        [sys.executable, "-m", "tests.socket.faulty"],
        cwd=HERE.parents[1],
        env={**os.environ, "LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr[-6000:]
    failures = dict(line.split() for line in run.stdout.splitlines())
    assert len(failures) == CALLS
    assert "0" not in failures.values(), failures
