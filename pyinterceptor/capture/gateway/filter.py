"""The nft rules of the gateway, loaded in one transaction from kernel/gateway.nft.json, and their counters.

They accept TCP and UDP with a source address of the interface's container and a unicast destination, for which the
kernel program then decides, and drop all other packets. They limit the DNS queries per second of each interface, with
a burst of a fifth of them: dns_rate.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from pyinterceptor.capture.gateway.debian import nftables
from pyinterceptor.errors import CaptureError

DNS_RATE = 50_000  # DNS datagrams per second of one container: far above those of any program but a flood


class Filter:
    """The gateway's rules. Must be created inside its namespace; can be used from any namespace then."""

    def __init__(self, rules: Path, dns_rate: int = DNS_RATE) -> None:
        try:
            module = nftables()
        except ImportError as error:
            raise CaptureError(
                "load the gateway's rules: the module nftables is missing; run: apt install python3-nftables"
            ) from error
        self._nft = module.Nftables()  # opens its netlink socket now, which stays in the current namespace
        self._nft.set_json_output(True)
        self._command(json.loads(rules.read_text(), object_hook=partial(_limited, dns_rate)))

    def close(self) -> None:
        """Closes the netlink socket. The rules last as long as the namespace."""
        del self._nft

    def counters(self) -> dict[str, int]:
        """Returns the number of packets for each counter in the rules, by its name."""
        counts = {}
        for family in ("inet", "arp"):  # one command each: the answers to two commands together aren't valid JSON
            for entry in self._command({"nftables": [{"list": {"counters": {"family": family}}}]}):
                if counter := entry.get("counter"):
                    counts[counter["name"]] = counter["packets"]
        return counts

    def _command(self, command: dict[str, Any]) -> list[dict[str, Any]]:
        code, output, error = self._nft.cmd(json.dumps(command))
        if code:
            raise CaptureError(f"load the gateway's rules: {error.strip()}")
        return list(json.loads(output)["nftables"]) if output else []


def _limited(dns_rate: int, entry: dict[str, Any]) -> dict[str, Any]:
    """Sets the rate of the rules' one limit."""
    if "limit" in entry:
        entry["limit"] |= {"rate": dns_rate, "burst": max(dns_rate // 5, 1)}
    return entry
