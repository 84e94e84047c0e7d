"""A call that fails between the handoff of a flow and its end, each in its turn: the flow ends, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("call", "error", "outcome"),
    [
        ("epoll_ctl", "ENOSPC", "refused"),  # at the user's limit of watches
        ("epoll_ctl", "ENOMEM", "refused"),
        ("getsockname", "ENOBUFS", "refused"),
        ("getsockopt", "ENOBUFS", "refused"),
        ("ioctl", "ENOMEM", "refused"),
        ("recvfrom", "ENOMEM", "refused"),
        ("sendto", "ENOBUFS", "refused"),
        ("setsockopt", "ENOMEM", "answered"),  # too late to keep the answer from the client
    ],
)
def test_a_call_that_fails_ends_its_flow_and_gives_its_place_back(call: str, error: str, outcome: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.socket.faulty", call, error], capture_output=True, text=True, cwd=ROOT, timeout=40
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{outcome}\n"
