"""Separates hop-by-hop header fields from end-to-end ones. Pure. RFC 9110 section 7.6.1.

Fields that Connection names are removed once, when a message arrives. A field that a handler sets afterwards is end to
end, so that no container can name it in its Connection and strip it. The fields of HOP_BY_HOP are always ours.
"""

from __future__ import annotations

from collections.abc import Iterable

from pyinterceptor.web.headers import connection_options

Fields = Iterable[tuple[str, str]]

HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
)

# Fields that a trailer may not replace (RFC 9110 section 6.5.1).
NOT_IN_TRAILERS = HOP_BY_HOP | {
    "authorization", "cache-control", "content-encoding", "content-length", "content-range", "content-type", "host",
    "location", "set-cookie", "www-authenticate",
}  # fmt: skip


def end_to_end(fields: Fields) -> list[tuple[str, str]]:
    """Returns the end-to-end fields of a message that has arrived."""
    given = list(fields)
    dropped = HOP_BY_HOP | connection_options(given)
    return [(name, value) for name, value in given if name.lower() not in dropped]


def trailers_of(fields: Fields) -> list[tuple[str, str]]:
    """Returns the trailer fields that are forwarded."""
    return [(name, value) for name, value in fields if name.lower() not in NOT_IN_TRAILERS]


def upgrade_of(fields: Fields) -> str | None:
    """Returns the value of Upgrade, the protocols that a message asks to switch to (RFC 9110 section 7.8).

    None if it doesn't ask to switch, or asks for cleartext HTTP/2, in which no policy would be applied to the requests.
    """
    given = list(fields)
    wanted = ", ".join(value for name, value in given if name.lower() == "upgrade")
    if not wanted or "h2c" in wanted.lower() or "upgrade" not in connection_options(given):
        return None
    return wanted
