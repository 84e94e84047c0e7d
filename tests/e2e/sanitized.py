"""The C extension's tests once more, with the extension built for AddressSanitizer and UndefinedBehaviorSanitizer.

A copy of the package with that build stands before the checkout's own on the path of another interpreter. It runs
beside the other tests, in a world of its own, since both mostly wait: `python -m tests.e2e.sanitized PLACE`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import TracebackType

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
POLITE = ["nice", "-n", "5"]  # to the tests beside it


class SanitizedRun:
    """A process while the block lasts."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def __enter__(self) -> SanitizedRun:
        argv = [*POLITE, sys.executable, "-m", "tests.e2e.sanitized", str(self._place)]
        with (self._place / "said").open("wb") as said:
            self._process = subprocess.Popen(argv, cwd=ROOT, stdout=said, stderr=said, start_new_session=True)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait()

    def finish(self) -> tuple[int, str, str]:
        """Its exit code, what it said, and the sanitizers' reports."""
        code = self._process.wait()
        reports = "".join(report.read_text(errors="replace") for report in self._place.glob("*san.*"))
        return code, (self._place / "said").read_text(errors="replace"), reports


def build(place: Path) -> None:
    """The package below `place`, its extension built for the sanitizers."""
    for name in ("pyinterceptor", "cext", "kernel"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, place)
    environment = {**os.environ, "CFLAGS": FLAGS, "LDFLAGS": FLAGS, "PYINTERCEPTOR_WERROR": "1"}
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=place, env=environment, check=True
    )


def run(place: Path) -> None:
    """Becomes the tests."""
    compiler = sysconfig.get_config_var("CC").split()[0]
    runtime = subprocess.run([compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    settings = {
        "LD_PRELOAD": runtime.stdout.strip(),
        "ASAN_OPTIONS": f"log_path={place}/asan:detect_leaks=0",  # the leak check itself crashes now and then
        "UBSAN_OPTIONS": f"print_stacktrace=1:log_path={place}/ubsan",
        "PYTHONPATH": f"{place}:{ROOT}",
    }
    tests = [sys.executable, "-P", "-c", RUN, str(place), "-p", "no:cacheprovider", *TESTS]
    argv = [str(ROOT / "dev"), "enclosed", "env", *(f"{name}={value}" for name, value in settings.items()), *tests]
    os.execv(argv[0], argv)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
    run(Path(sys.argv[1]))
