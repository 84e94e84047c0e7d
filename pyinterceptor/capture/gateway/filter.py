"""The nft rules of the gateway, loaded in one transaction from kernel/gateway.nft.json, and their counters.

They let TCP and UDP through, from an interface's own addresses to one address each: that is what the program judges.
Of questions to DNS only so many a second.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pyinterceptor.errors import CaptureError


class Filter:
    """The gateway's rules; made inside its namespace, usable from anywhere after."""

    def __init__(self, rules: Path) -> None:
        try:
            from nftables import Nftables
        except ImportError as error:
            raise CaptureError(
                "load the gateway's rules: the module nftables is missing; install Debian's python3-nftables"
            ) from error
        self._nft = Nftables()  # opens its netlink socket here, so it stays in this namespace
        self._nft.set_json_output(True)
        self._command(json.loads(rules.read_text()))

    def close(self) -> None:
        """Lets the socket go; the rules stay as long as the namespace."""
        del self._nft

    def counters(self) -> dict[str, int]:
        """Packets by the counters' names in the rules."""
        counts = {}
        for family in ("inet", "arp"):  # one command each: the answers to two are not one JSON text
            for entry in self._command({"nftables": [{"list": {"counters": {"family": family}}}]}):
                if counter := entry.get("counter"):
                    counts[counter["name"]] = counter["packets"]
        return counts

    def _command(self, command: dict[str, Any]) -> list[dict[str, Any]]:
        code, output, error = self._nft.cmd(json.dumps(command))
        if code:
            raise CaptureError(f"load the gateway's rules: {error.strip()}")
        return list(json.loads(output)["nftables"]) if output else []
