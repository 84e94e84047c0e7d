"""The rows of a stage, and their bytes for C to search: `struct policy_rows` (cext/layout.h).

Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import NamedTuple

from pyinterceptor._relay import ffi, lib
from pyinterceptor.policy.addresses import Network
from pyinterceptor.policy.hosts import is_glob
from pyinterceptor.policy.pieces import Pieces, batches, in_order

ROW = Struct("=IIIHH")  # struct policy_row
NAME = Struct("=IIIHHIIHH")  # struct policy_name
NETWORK = Struct("=16sIIIHHIB3x")  # struct policy_network
HEADER = Struct("=13I")  # struct policy_rows
ALL_PROTOCOLS = (1 << (lib.PROTOCOL_OPAQUE + 1)) - 1
SPOKEN = ALL_PROTOCOLS & ~(1 << lib.PROTOCOL_NONE)  # the client has spoken, or must speak before anything is dialled

assert (ROW.size, NAME.size) == (ffi.sizeof("struct policy_row"), ffi.sizeof("struct policy_name"))
assert (NETWORK.size, HEADER.size) == (ffi.sizeof("struct policy_network"), ffi.sizeof("struct policy_rows"))


class Row(NamedTuple):
    """One row. `key` is a canonical name, a glob, a network, or None, which matches everything.

    Of the rows that match, the one with the lowest `rank` answers.
    """

    key: str | Network | None
    rule: int
    rank: int
    target: int = lib.NO_TARGET
    port: int = 0  # 0: any
    protocols: int = ALL_PROTOCOLS  # bits, 1 << lib.PROTOCOL_*


def compiled(rows: Sequence[Row]) -> Pieces[bytes]:
    """Returns the rows' bytes, which don't depend on their place in the table."""
    names, suffixes, prefixes, globs, networks, everything = yield from _by_kind(rows)
    text = bytearray()
    parts = [
        (len(names), (yield from _names(names, text))),
        (len(suffixes), (yield from _beginnings(suffixes, text))),
        (len(prefixes), (yield from _beginnings(prefixes, text))),
        (len(globs), (yield from _globs(globs, text))),
        (len(networks), (yield from _networks(networks))),
        (len(everything), b"".join(_packed(row) for row in sorted(everything, key=_rank))),
    ]
    offset, arrays = HEADER.size + len(text) + -len(text) % 4, []
    for count, part in parts:
        arrays += [count, offset]
        offset += len(part)
    yield
    return b"".join((HEADER.pack(offset, *arrays), text, bytes(-len(text) % 4), *(part for _, part in parts)))


Keyed = tuple[str, Row]


def _by_kind(
    rows: Sequence[Row],
) -> Pieces[tuple[list[Keyed], list[Keyed], list[Keyed], list[Keyed], list[tuple[Network, Row]], list[Row]]]:
    """Sorts the rows into names, `*suffix` (reversed), `prefix*`, other globs, networks, rows for everything."""
    names: list[Keyed] = []
    suffixes: list[Keyed] = []
    prefixes: list[Keyed] = []
    globs: list[Keyed] = []
    networks: list[tuple[Network, Row]] = []
    everything: list[Row] = []
    for batch in batches(rows):
        for row in batch:
            key = row.key
            if key is None:
                everything.append(row)
            elif isinstance(key, Network):
                networks.append((key, row))
            elif not is_glob(key):
                names.append((key, row))
            elif key.startswith("*") and not is_glob(key[1:]):
                suffixes.append((key[:0:-1], row))
            elif key.endswith("*") and not is_glob(key[:-1]):
                prefixes.append((key[:-1], row))
            else:
                globs.append((key, row))
        yield
    return names, suffixes, prefixes, globs, networks, everything


def _rank(row: Row) -> int:
    return row.rank


def _text(keyed: Keyed) -> str:
    return keyed[0]


def _packed(row: Row) -> bytes:
    return ROW.pack(row.rank, row.rule, row.target, row.port, row.protocols)


def _named(keyed: Keyed, parent: int, text: bytearray) -> bytes:
    """Returns the struct policy_name of a row; appends its text to `text`."""
    key, row = keyed
    at = HEADER.size + len(text)
    text += key.encode("ascii")
    return NAME.pack(row.rank, row.rule, row.target, row.port, row.protocols, parent, at, len(key), 0)


def _names(names: list[Keyed], text: bytearray) -> Pieces[bytes]:
    """Returns the names sorted by text. The parent of a name is the equal name before it."""
    packed, last = [], None
    for batch in batches(enumerate((yield from in_order(names, _text)))):
        for number, keyed in batch:
            packed.append(_named(keyed, number - 1 if keyed[0] == last else lib.NO_PARENT, text))
            last = keyed[0]
        yield
    return b"".join(packed)


def _beginnings(globs: list[Keyed], text: bytearray) -> Pieces[bytes]:
    """Returns the globs sorted by text. The parent of a glob is the longest one before it that is its prefix."""
    packed: list[bytes] = []
    open_: list[tuple[str, int]] = []  # the prefixes of the last one, itself included
    for batch in batches(enumerate((yield from in_order(globs, _text)))):
        for number, keyed in batch:
            while open_ and not keyed[0].startswith(open_[-1][0]):
                open_.pop()
            packed.append(_named(keyed, open_[-1][1] if open_ else lib.NO_PARENT, text))
            open_.append((keyed[0], number))
        yield
    return b"".join(packed)


def _globs(globs: list[Keyed], text: bytearray) -> Pieces[bytes]:
    """Returns the globs sorted by rank."""
    packed = []
    for batch in batches((yield from in_order(globs, lambda keyed: keyed[1].rank))):
        for keyed in batch:
            packed.append(_named(keyed, lib.NO_PARENT, text))
        yield
    return b"".join(packed)


def _networks(networks: list[tuple[Network, Row]]) -> Pieces[bytes]:
    """Returns the networks sorted by address, then prefix. A network's parent is the narrowest one that holds it."""
    packed: list[bytes] = []
    open_: list[tuple[int, int, int]] = []  # the networks that hold the last one: address, bits after the prefix, index
    in_order_ = yield from in_order(networks, lambda keyed: (keyed[0].address, keyed[0].prefix))
    for batch in batches(enumerate(in_order_)):
        for number, ((address, prefix), row) in batch:
            bits = int.from_bytes(address, "big")
            while open_ and (bits ^ open_[-1][0]) >> open_[-1][1]:
                open_.pop()
            parent = open_[-1][2] if open_ else lib.NO_PARENT
            packed.append(
                NETWORK.pack(address, row.rank, row.rule, row.target, row.port, row.protocols, parent, prefix)
            )
            open_.append((bits, 128 - prefix, number))
        yield
    return b"".join(packed)
