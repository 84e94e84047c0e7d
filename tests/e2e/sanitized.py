"""Runs the C extension's tests with sanitizers: first for memory errors and leaks, then for races.

Another interpreter imports a copy of the package with that build instead of the checkout's. It runs beside the other
tests, in a world of its own, since both mostly wait: `python -m tests.e2e.sanitized PLACE`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).parents[2]
RACER = Path(__file__).with_name("racer.c")
RUN = """
import os, sys
del os.environ["LD_PRELOAD"]  # processes that the tests start are not sanitized
import pyinterceptor._relay, pytest
assert pyinterceptor._relay.__file__.startswith(sys.argv[1]), pyinterceptor._relay.__file__
code = pytest.main(sys.argv[2:])
{control}
sys.exit(code)
"""


@dataclass(frozen=True, slots=True)
class Sanitizers:
    """`control` is Python code that makes a fault after the tests. Its report shows that the sanitizer finds faults."""

    flags: str
    runtime: str  # library that is loaded before all others
    settings: tuple[str, ...]  # PLACE stands for the directory of the reports
    control: str
    tests: tuple[str, ...]


MEMORY = Sanitizers(
    flags="-UNDEBUG -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -O1",
    runtime="libasan.so",
    settings=(
        "ASAN_OPTIONS=log_path=PLACE/asan:detect_leaks=1:leak_check_at_exit=0",  # see leaks.py
        "UBSAN_OPTIONS=print_stacktrace=1:log_path=PLACE/ubsan",
        "PYTHONMALLOC=malloc",  # objects in Python's own arenas hide their memory from the leak check
    ),
    control="from tests.e2e import leaks; leaks.check()",
    tests=(
        "tests/unit/test_sniff.py",
        "tests/unit/test_frame.py",
        "tests/unit/test_policy.py",
        "tests/unit/test_policy_properties.py",
        "tests/unit/test_name_table.py",
        "tests/unit/test_judge.py",
        "tests/unit/test_follow.py",
        "tests/unit/test_timers.py",
        "tests/unit/test_places.py",
        "tests/unit/test_ports.py",
        "tests/socket/test_limits.py",
        "tests/unit/test_watch.py",
        "tests/socket/test_records_ring.py",
        "tests/socket/test_doubt.py",
        "tests/socket/test_route.py",
        "tests/socket/test_faults.py",
        "tests/socket/test_policy_change.py",
        "tests/socket/test_pump.py",
        "tests/socket/test_passage.py::test_a_reset_stays_one_though_a_head_was_looked_for_at_its_moment",
        "tests/socket/test_passage.py::test_a_flow_that_ends_with_its_container_is_counted",
        "tests/socket/test_relay.py",
        "tests/socket/test_alert.py",
        "tests/socket/test_upstream.py",
        "tests/socket/test_dns.py",
        "tests/stream/test_dns_server.py",
        "tests/e2e/test_follow.py",
        "tests/e2e/test_evasion.py",
        "tests/e2e/test_flows.py::test_300_uploads_at_once_arrive_whole_and_are_answered_after_half_close[300000]",
        "tests/e2e/test_flows.py::test_a_container_at_its_limits_costs_another_nothing",
    ),
)
RACES = Sanitizers(
    flags="-UNDEBUG -fsanitize=thread -fno-omit-frame-pointer -O1",
    runtime="libtsan.so",
    settings=("TSAN_OPTIONS=exitcode=0:log_path=PLACE/tsan",),  # the control's race must not fail the run
    control="import ctypes; ctypes.CDLL(sys.argv[1] + '/racer.so').race()",
    tests=(
        "tests/socket/test_relay.py",
        "tests/socket/test_limits.py",
        "tests/socket/test_pump.py",
        "tests/socket/test_passage.py",
        "tests/socket/test_policy_change.py",
        "tests/socket/test_records_ring.py",
        "tests/socket/test_doubt.py",
        "tests/socket/test_upstream.py",
        "tests/e2e/test_follow.py",
        *("-k", "not cost and not freed"),  # tests of time and memory, of which the sanitizer needs more
    ),
)
KINDS = {"memory": MEMORY, "races": RACES}
POLITE = ["nice", "-n", "5"]  # the other tests run at the same time


class SanitizedRun:
    """The process of the run, which lasts as long as the block."""

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

    def finish(self) -> tuple[int, str]:
        """Waits for the end of the process. Returns its exit code and output."""
        return self._process.wait(), (self._place / "said").read_text(errors="replace")

    def reports(self, kind: str) -> str:
        """Returns the sanitizers' reports after the end of the process."""
        return "".join(report.read_text(errors="replace") for report in (self._place / kind).glob("*san.*"))


def build(place: Path, kind: Sanitizers) -> None:
    """Copies the package to `place` and builds its extension for the sanitizers."""
    for name in ("pyinterceptor", "cext", "kernel"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, place)
    environment = {**os.environ, "CFLAGS": kind.flags, "LDFLAGS": kind.flags, "PYINTERCEPTOR_WERROR": "1"}
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=place, env=environment, check=True
    )
    racer = [*kind.flags.split(), "-g", "-shared", "-fPIC", "-o", str(place / "racer.so"), str(RACER)]
    subprocess.run([compiler(), *racer], check=True)


def run(place: Path, kind: Sanitizers) -> int:
    """Runs the tests; returns their exit code."""
    found = [compiler(), f"-print-file-name={kind.runtime}"]
    runtime = subprocess.run(found, capture_output=True, text=True, check=True).stdout.strip()
    settings = [setting.replace("PLACE", str(place)) for setting in kind.settings]
    settings += [f"LD_PRELOAD={runtime}", f"PYTHONPATH={place}:{ROOT}"]
    script = RUN.format(control=kind.control)
    tests = [sys.executable, "-P", "-c", script, str(place), "-p", "no:cacheprovider", *kind.tests]
    return subprocess.run([str(ROOT / "dev"), "enclosed", "env", *settings, *tests]).returncode


def compiler() -> str:
    return str(sysconfig.get_config_var("CC").split()[0])


def main(place: Path) -> int:
    """Builds and runs every kind; returns the first exit code other than 0, else 0."""
    codes = []
    for name, kind in KINDS.items():
        build(place / name, kind)
        codes.append(run(place / name, kind))
    return next((code for code in codes if code), 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
