"""The C extension's tests once more, with the extension built for AddressSanitizer and UndefinedBehaviorSanitizer.

A copy of the package with that build stands before the checkout's own on the path of another interpreter.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLAGS = "-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -O1"
RUN = """
import os, sys
del os.environ["LD_PRELOAD"]  # what the tests start is not ours to look into
import pyinterceptor._relay, pytest
assert pyinterceptor._relay.__file__.startswith(sys.argv[1]), pyinterceptor._relay.__file__
sys.exit(pytest.main(sys.argv[2:]))
"""
TESTS = [
    "tests/unit/test_sniff.py",
    "tests/unit/test_frame.py",
    "tests/unit/test_policy.py",
    "tests/unit/test_policy_properties.py",
    "tests/unit/test_name_table.py",
    "tests/socket/test_pump.py",
    "tests/socket/test_passage.py::test_a_reset_stays_one_though_a_head_was_looked_for_at_its_moment",
    "tests/socket/test_passage.py::test_a_flow_that_ends_with_its_container_is_counted",
    "tests/socket/test_relay.py",
    "tests/e2e/test_follow.py",
    "tests/e2e/test_evasion.py",
    "tests/e2e/test_flows.py::test_300_uploads_at_once_arrive_whole_and_are_answered_after_half_close[300000]",
    "tests/e2e/test_flows.py::test_a_container_at_its_limits_costs_another_nothing",
]


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the package, its extension built for the sanitizers."""
    place = tmp_path_factory.mktemp("sanitized")
    for name in ("pyinterceptor", "cext", "kernel"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, place)
    environment = {**os.environ, "CFLAGS": FLAGS, "LDFLAGS": FLAGS, "PYINTERCEPTOR_WERROR": "1"}
    build = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    built = subprocess.run(build, cwd=place, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return place


def test_the_sanitizers_find_nothing(sanitized: Path, tmp_path: Path) -> None:
    compiler = sysconfig.get_config_var("CC").split()[0]
    runtime = subprocess.run([compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    settings = {
        "LD_PRELOAD": runtime.stdout.strip(),
        "ASAN_OPTIONS": f"log_path={tmp_path}/asan:detect_leaks=0",  # the leak check itself crashes now and then
        "UBSAN_OPTIONS": f"print_stacktrace=1:log_path={tmp_path}/ubsan",
        "PYTHONPATH": f"{sanitized}:{ROOT}",
    }
    tests = [sys.executable, "-P", "-c", RUN, str(sanitized), "-p", "no:cacheprovider", *TESTS]
    argv = [str(ROOT / "dev"), "enclosed", "env", *(f"{name}={value}" for name, value in settings.items()), *tests]
    ran = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
    reports = "".join(report.read_text(errors="replace") for report in tmp_path.glob("*san.*"))
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-3000:] + reports[:6000]
    assert not reports
