"""Limits on the resources that one container may use at once.

Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from pyinterceptor._relay import lib
from pyinterceptor.errors import PolicyError


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Limits: counts, but for `buffers`. A request beyond a limit is refused, and other containers are not affected.

    `names` is at most 65 536, its default. A container gets `flows` and `descriptors` above its reserve only while they
    are free beyond the reserves of all containers: `Options(flows=…, descriptors=…, reserve=…)`.

    Raises PolicyError for a value that is not a count of at least 1.
    """

    flows: int = lib.BUDGET_FLOWS
    openings: int = lib.BUDGET_OPENINGS  # flows that aren't judged yet, because their first bytes haven't come
    handoffs: int = lib.BUDGET_HANDOFFS  # flows that Python serves
    pipes: int = lib.BUDGET_PIPES  # of 256 KiB, for splicing large bodies; further bodies are copied
    # bytes of its connections' socket buffers in each direction: the more there are, the smaller is each one's buffer
    buffers: int = lib.BUDGET_BUFFERS
    handlers: int = 256  # running at once
    descriptors: int | None = None  # of its sockets, pipes and fetches; None: 1 024, and two for each flow
    names: int = lib.NAMES_MAX  # synthetic addresses for names that a rule serves, and again names of real addresses
    # DNS queries waiting for upstream, those for its flows included; further ones get TC over UDP, and wait over TCP
    queries: int = 64
    ports: int | None = None  # local ports to one destination; None: while it has fewer of them than are free
    query_queue: int = 1024  # DNS queries over UDP waiting for their turn; further ones get TC
    query_streams: int = 64  # DNS queries over TCP being answered; further ones wait

    def __post_init__(self) -> None:
        for field in fields(self):
            count = getattr(self, field.name)
            if count is None and field.default is None:
                continue
            if type(count) is not int or not 1 <= count < 2**31:
                raise PolicyError(f"budget: {field.name} must be a count of at least 1, not {count!r}")
        if self.names > lib.NAMES_MAX:
            raise PolicyError(f"budget: names must be at most {lib.NAMES_MAX}, not {self.names}")
