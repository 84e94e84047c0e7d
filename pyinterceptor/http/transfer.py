"""Sends a body as it comes: read and written here, or moved in C where both ends are sockets.

What is sent can always be told from a whole body: it is as long as it says, and chunked bodies end with their last chunk.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, cast

import trio

from pyinterceptor.web import Body
from pyinterceptor.web.body import Source

Pump = Callable[[socket.socket, socket.socket, int], Awaitable[int]]  # see Relay.pump

PUMPED = 256 * 1024  # bytes of a body from which on a hand-over to C pays
LAST_CHUNK = b"0\r\n\r\n"
TCP_CLOSE = 7  # a socket's state after a reset (net/tcp_states.h)
