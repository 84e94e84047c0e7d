"""Limits on the memory, processes, processor time and /tmp of one container.

Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from pyinterceptor.errors import PolicyError

PIDS = 2048  # as podman's default
TMP = 1 << 30  # bytes
MIN_MEMORY = 1 << 20  # bytes; less holds no program
MIN_CPU = 0.01  # processors: 1 ms of each 100 ms, the kernel's least quota


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of one container. None selects a default, which is left out where the machine can't enforce it.

    `memory`: bytes, files in /tmp included; by default half of the memory that we may use.
    `pids`: processes and threads; by default PIDS.
    `cpu`: processors, as 0.5; by default all of them, shared equally with other containers.
    `tmp`: bytes of /tmp.

    Raises PolicyError for a value of another type, or one that is too small.
    """

    memory: int | None = None
    pids: int | None = None
    cpu: float | None = None
    tmp: int = TMP

    def __post_init__(self) -> None:
        if self.memory is not None and not _is_count(self.memory, MIN_MEMORY):
            raise PolicyError(f"memory must be a count of bytes, at least 1 MiB, or None, not {self.memory!r}")
        if self.pids is not None and not _is_count(self.pids, 1):
            raise PolicyError(f"pids must be a count of processes, at least 1, or None, not {self.pids!r}")
        if self.cpu is not None and not (type(self.cpu) in (int, float) and MIN_CPU <= self.cpu < 2**20):
            raise PolicyError(f"cpu must be a count of processors, at least {MIN_CPU}, or None, not {self.cpu!r}")
        if not _is_count(self.tmp, 1):
            raise PolicyError(f"tmp must be a count of bytes, at least 1, not {self.tmp!r}")


def _is_count(value: object, least: int) -> bool:
    return type(value) is int and least <= value < 2**63
