"""The C extension's tests once more, with the extension built for sanitizers: for memory and leaks, then for races.

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
    """`control` is Python that makes a fault on purpose after the tests; its report shows that faults are found."""

    flags: str
    runtime: str  # the library that is loaded before all others
    settings: tuple[str, ...]  # PLACE in them is where reports go
    control: str
    tests: tuple[str, ...]


MEMORY = Sanitizers(
    flags="-UNDEBUG -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -O1",
    runtime="libasan.so",
    settings=(
        "ASAN_OPTIONS=log_path=PLACE/asan:detect_leaks=1:leak_check_at_exit=0",  # see leaks.py
        "UBSAN_OPTIONS=print_stacktrace=1:log_path=PLACE/ubsan",
        "PYTHONMALLOC=malloc",  # in arenas of Python's own, objects hide what they own from the leak check
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
        "tests/socket/test_policy_change.py",
        "tests/socket/test_pump.py",
        "tests/socket/test_passage.py::test_a_reset_stays_one_though_a_head_was_looked_for_at_its_moment",
        "tests/socket/test_passage.py::test_a_flow_that_ends_with_its_container_is_counted",
        "tests/socket/test_relay.py",
        "tests/e2e/test_follow.py",
        "tests/e2e/test_evasion.py",
        "tests/e2e/test_flows.py::test_300_uploads_at_once_arrive_whole_and_are_answered_after_half_close[300000]",
        "tests/e2e/test_flows.py::test_a_container_at_its_limits_costs_another_nothing",
    ),
)
RACES = Sanitizers(
    flags="-UNDEBUG -fsanitize=thread -fno-omit-frame-pointer -O1",
    runtime="libtsan.so",
    settings=("TSAN_OPTIONS=exitcode=0:log_path=PLACE/tsan",),  # the control's race would be a failure
    control="import ctypes; ctypes.CDLL(sys.argv[1] + '/racer.so').race()",
    tests=(
        "tests/socket/test_relay.py",
        "tests/socket/test_pump.py",
        "tests/socket/test_passage.py",
        "tests/socket/test_policy_change.py",
        "tests/e2e/test_follow.py",
        *("-k", "not cost and not freed"),  # the sanitizer takes time and memory of its own
    ),
)
KINDS = {"memory": MEMORY, "races": RACES}
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

    def finish(self) -> tuple[int, str]:
        """Waits for its end. Returns its exit code and its output."""
        return self._process.wait(), (self._place / "said").read_text(errors="replace")

    def reports(self, kind: str) -> str:
        """The sanitizers' reports, when it has ended."""
        return "".join(report.read_text(errors="replace") for report in (self._place / kind).glob("*san.*"))


def build(place: Path, kind: Sanitizers) -> None:
    """The package below `place`, its extension built for the sanitizers."""
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
    """The exit code of the tests."""
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
    """The first exit code that is a failure."""
    codes = []
    for name, kind in KINDS.items():
        build(place / name, kind)
        codes.append(run(place / name, kind))
    return next((code for code in codes if code), 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
