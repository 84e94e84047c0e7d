"""The faults that the sanitizers find in the C extension: see sanitized.py. Each run makes one fault on purpose."""

from __future__ import annotations

from tests.e2e import leaks
from tests.e2e.sanitized import SanitizedRun


def test_the_extension_makes_no_error_of_memory_and_nothing_undefined(sanitized: SanitizedRun) -> None:
    code, said = sanitized.finish()
    reports = sanitized.reports("memory")
    assert code == 0, said[-9000:] + reports[:6000]
    assert "ERROR: AddressSanitizer" not in reports
    assert "runtime error" not in reports


def test_all_that_the_extension_allocates_is_freed(sanitized: SanitizedRun) -> None:
    sanitized.finish()
    controls, others = leaks.ours(sanitized.reports("memory"))
    assert controls
    assert not others, "".join(others)[:6000]


def test_the_threads_of_the_relay_do_not_race(sanitized: SanitizedRun) -> None:
    sanitized.finish()
    races = sanitized.reports("races").split("WARNING: ThreadSanitizer: ")[1:]
    controls = [race for race in races if "racer.c" in race]
    assert controls
    assert len(races) == len(controls), "".join(race for race in races if race not in controls)[:6000]
