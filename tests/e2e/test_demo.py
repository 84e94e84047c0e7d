"""The demo, which a new user runs first."""

from __future__ import annotations

import subprocess
from pathlib import Path

DEV = Path(__file__).parents[2] / "dev"


def test_the_demo_prints_its_results_and_works_again_when_run_twice() -> None:
    for _ in range(2):
        ran = subprocess.run([DEV, "demo"], capture_output=True, text=True, timeout=120)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert "WRONG" not in ran.stdout
        assert "Proven: my.kv exists in no DNS" in ran.stdout
        assert "The same held in a real podman container." in ran.stdout
