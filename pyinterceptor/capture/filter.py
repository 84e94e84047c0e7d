"""The nft rules of the gateway, loaded in one transaction from kernel/gateway.nft.json, and their counters.

They drop what never asks the program (broadcasts, multicasts) and every source that does not belong to its interface.
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
                "load the gateway's rules: the Python module nftables is missing; install Debian's python3-nftables"
            ) from error
        self._nft = Nftables()  # opens its netlink socket here, so it stays in this namespace
        self._nft.set_json_output(True)
        self._command(json.loads(rules.read_text()))

    def counters(self) -> dict[str, int]:
        """Packets by the counters' names in the rules."""
        listing = self._command({"nftables": [{"list": {"counters": {"family": "inet"}}}]})
        listing += self._command({"nftables": [{"list": {"counters": {"family": "arp"}}}]})
        return {entry["counter"]["name"]: entry["counter"]["packets"] for entry in listing if "counter" in entry}

    def _command(self, command: dict[str, Any]) -> list[dict[str, Any]]:
        code, output, error = self._nft.cmd(json.dumps(command))
        if code:
            raise CaptureError(f"load the gateway's rules: {error.strip()}")
        return list(json.loads(output)["nftables"]) if output else []
