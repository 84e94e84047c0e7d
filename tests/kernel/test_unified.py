"""The limits of a container under cgroup v2, in a kernel of their own, User Mode Linux.

A machine has each controller in one version of cgroups, so test_limits.py tests the other version only there.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

INIT = Path(__file__).with_name("uml-init")
ROOT = INIT.parents[2]
TIME = 600.0  # seconds; it takes about a minute


def test_the_limits_are_enforced_under_cgroup_v2(tmp_path: Path) -> None:
    kernel = ["linux.uml", "mem=1G", f"uml_dir={tmp_path}", "con=null", "con0=fd:0,fd:1", "quiet"]
    root = ["root=/dev/root", "rootfstype=hostfs", "rootflags=/", "rw", f"init={INIT}", f"tests={ROOT}"]
    done = subprocess.run([*kernel, *root], stdin=subprocess.DEVNULL, capture_output=True, timeout=TIME)
    output = done.stdout.decode(errors="replace")
    assert "code 0" in output, output[-9000:]
    assert "7 passed" in output, output[-9000:]
