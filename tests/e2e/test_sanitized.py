"""What the sanitizers find in the C extension: see sanitized.py."""

from __future__ import annotations

from tests.e2e.sanitized import SanitizedRun


def test_the_sanitizers_find_nothing(sanitized: SanitizedRun) -> None:
    code, said, reports = sanitized.finish()
    assert code == 0, said[-9000:] + reports[:6000]
    assert not reports
