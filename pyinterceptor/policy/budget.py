"""What one container may use of us at once.

Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from pyinterceptor._relay import lib
from pyinterceptor.errors import PolicyError


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Counts. What is above one is refused, and costs no other container.

    Raises: PolicyError for what is no count of at least 1.
    """

    flows: int = lib.BUDGET_FLOWS
    openings: int = lib.BUDGET_OPENINGS  # flows whose first bytes don't yet say what they are
    handoffs: int = lib.BUDGET_HANDOFFS  # flows that are with Python
    pipes: int = lib.BUDGET_PIPES  # of 256 KiB, in which large bodies move; above it they are copied
    handlers: int = 256  # that run
    queries: int = 64  # DNS questions that wait for upstream
    query_streams: int = 64  # DNS connections

    def __post_init__(self) -> None:
        for field in fields(self):
            count = getattr(self, field.name)
            if type(count) is not int or not 1 <= count < 2**31:
                raise PolicyError(f"budget: {field.name} must be a count of at least 1, not {count!r}")
