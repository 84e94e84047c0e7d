"""What the relay's threads do beside moving bytes: nothing they hold grows, nothing costs the more the more there is."""

from __future__ import annotations

import gc
import resource
import socket
from pathlib import Path

from tests.socket.loopback import in_trio, reset
from tests.socket.passage import Passage, passage


def resident() -> int:
    """Bytes of our memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def come_and_go(opened: Passage, count: int) -> None:
    """So many flows are begun and ended."""
    for _ in range(count):
        with socket.create_connection(opened.address) as client:
            reset(client)


@in_trio
async def test_ended_flows_are_freed_though_others_move_bytes_without_a_pause() -> None:
    async with passage() as opened:
        with opened.crowded(6):
            come_and_go(opened, 2_000)
            before = resident()
            come_and_go(opened, 20_000)
            assert resident() - before < 2_000_000  # a flow has about 400 bytes
