"""Which header fields are for the next hop alone. Pure. RFC 9110 section 7.6.1."""

from __future__ import annotations

from collections.abc import Iterable

Fields = Iterable[tuple[str, str]]

HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
)


def connection_options(fields: Fields) -> set[str]:
    """The lower-cased options of all Connection fields."""
    values = (value for name, value in fields if name.lower() == "connection")
    return {option.strip().lower() for value in values for option in value.split(",")} - {""}


def end_to_end(fields: Fields) -> list[tuple[str, str]]:
    """The fields that are meant for the other end, without those that Connection names."""
    given = list(fields)
    dropped = HOP_BY_HOP | connection_options(given)
    return [(name, value) for name, value in given if name.lower() not in dropped]


def upgrade_of(fields: Fields) -> str | None:
    """The protocols that a message wants to switch to (RFC 9110 section 7.8), None where it doesn't.

    HTTP/2 in the clear isn't one: behind it, requests would go undecided.
    """
    given = list(fields)
    wanted = ", ".join(value for name, value in given if name.lower() == "upgrade")
    if not wanted or "h2c" in wanted.lower() or "upgrade" not in connection_options(given):
        return None
    return wanted
