"""The addresses of the resolvers that are asked: the user's, or those in the host's resolv.conf(5)."""

from __future__ import annotations

import contextlib
import ipaddress
import os
from collections.abc import Sequence

from pyinterceptor._relay import lib
from pyinterceptor.errors import PolicyError
from pyinterceptor.paths import RESOLV_CONF
from pyinterceptor.policy.addresses import split_port

Server = tuple[str, int]


class Servers:
    """`texts` are "address", "address:port" or "[v6]:port". None means the servers in /etc/resolv.conf, which is read
    again when it has changed. Raises PolicyError for a wrong address."""

    def __init__(self, texts: Sequence[str] | None = None) -> None:
        self._is_system = texts is None
        self._servers = [_server(text) for text in texts or ()]
        self._seen: tuple[int, ...] | None = None

    def now(self) -> Sequence[Server]:
        """Returns the servers, in the order in which they are asked."""
        if self._is_system and (seen := _state()) != self._seen:
            self._servers = _system()
            self._seen = seen
        return self._servers


def _state() -> tuple[int, ...]:
    try:
        status = os.stat(RESOLV_CONF)
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _system() -> list[Server]:
    """Returns the host's servers, or the host itself if resolv.conf(5) names none."""
    try:
        lines = RESOLV_CONF.read_text("ascii", "replace").splitlines()
    except OSError:
        lines = []
    found = []
    for words in map(str.split, lines):
        if words[:1] == ["nameserver"] and len(words) > 1:
            with contextlib.suppress(PolicyError):
                found.append(_server(words[1]))
    return found or [("127.0.0.1", lib.DNS_PORT)]


def _server(text: str) -> Server:
    """Parses a server's address. Raises PolicyError if it is invalid."""
    try:
        host, port = split_port(text)
        return str(ipaddress.ip_address(host)), port or lib.DNS_PORT
    except ValueError as error:
        raise PolicyError(f"nameserver {text!r} must be an address, with or without a port: {error}") from error
