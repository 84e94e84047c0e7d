"""Builds the last line of `run` after refusals: counts by kind, and the hosts refused most often.

Pure.
"""

from __future__ import annotations

from collections import Counter

from pyinterceptor.serving.lines import shown_endpoint, shown_host
from pyinterceptor.serving.records import Reason, RefusalRecord, Refused

SHOWN = 3  # hosts of one kind
KEPT = 1000  # different hosts of one kind that are counted apart

# In the order of the line.
NAMES, REQUESTS, TLS, FLOWS, LOCAL, BUDGET = range(6)
NOUNS = {
    NAMES: ("name", "names"),
    REQUESTS: ("request", "requests"),
    TLS: ("TLS", "TLS"),
    FLOWS: ("connection", "connections"),
    LOCAL: ("local address", "local addresses"),
    BUDGET: ("over budget", "over budget"),
}
OF_REFUSED = {Refused.NAME: NAMES, Refused.REQUEST: REQUESTS, Refused.TLS: TLS, Refused.FLOW: FLOWS}
ONCE = (NAMES, LOCAL)  # counted once for each host
OF_REASON = {Reason.LOCAL: LOCAL, Reason.BUDGET: BUDGET}


class Tally:
    """Counts refusals: each name and local address once, every other refusal each time."""

    def __init__(self) -> None:
        self.dropped = 0  # refusals that came too fast to be counted by kind
        self._counts: Counter[int] = Counter()
        self._hosts: dict[int, Counter[str]] = {kind: Counter() for kind in NOUNS}

    def add(self, refusal: RefusalRecord) -> None:
        """Counts a refusal."""
        kind = OF_REASON.get(refusal.reason, OF_REFUSED[refusal.refused])
        host = _target(refusal)
        hosts = self._hosts[kind]
        self._counts[kind] += kind not in ONCE or host not in hosts
        if host in hosts or len(hosts) < KEPT:
            hosts[host] += 1

    def line(self) -> str | None:
        """Returns the line; None if nothing was refused."""
        parts = [self._part(kind) for kind in NOUNS if self._counts[kind]]
        if self.dropped:
            parts.append(f"{self.dropped} more")
        return f"refused: {', '.join(parts)}" if parts else None

    def _part(self, kind: int) -> str:
        count, hosts = self._counts[kind], self._hosts[kind]
        most = [host for host, _ in hosts.most_common(SHOWN)]
        noun = NOUNS[kind][count != 1]
        if len(hosts) == 1 and kind not in ONCE:
            return f"{count} {noun} to {most[0]}"
        return f"{count} {noun} ({', '.join(most)}{', …' if len(hosts) > SHOWN else ''})"


def _target(refusal: RefusalRecord) -> str:
    """Returns the host that the container named, or the address that it dialled if it named none."""
    if refusal.host or refusal.destination is None:
        return shown_host(refusal.host)
    return shown_endpoint(refusal.destination)
