"""The benchmark of two trees works with the layout of this tree."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.measured import OPERATIONS

ROOT = Path(__file__).parents[2]


def test_a_tree_is_compared_with_itself() -> None:
    argv = [ROOT / "dev", "enclosed", sys.executable, "-m", "benchmarks.compare", ROOT, ROOT, "--rounds", "1"]
    ran = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert not ran.stderr
    rows = [[cell.strip() for cell in line.split("|")] for line in ran.stdout.splitlines()]
    measured = {row[1]: row[2:4] for row in rows if len(row) > 3}
    assert all(float(cost.split()[0]) > 0 for operation in OPERATIONS for cost in measured[operation])
