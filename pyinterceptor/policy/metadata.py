"""The metadata services and host agents of clouds: cext/guard.c has the list.

They give credentials or control of the machine, so they are refused above every allow, in the kernel already. A rule
that names one, in `local_networks` or with a handler, opens the kernel's way to the relay, which decides as ever.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable

from pyinterceptor._relay import ffi, lib
from pyinterceptor.policy.addresses import Network, network, overlap
from pyinterceptor.policy.pieces import Pieces, batches
from pyinterceptor.policy.rules import PARSED


def _listed() -> list[Network]:
    found: list[Network] = []
    while (address := lib.guard_metadata(len(found))) != ffi.NULL:
        found.append(Network(bytes(ffi.buffer(address, 16)), 128))
    return found


METADATA = _listed()


def names_metadata(hosts: Iterable[Network], local_networks: Iterable[str]) -> Pieces[bool]:
    """Whether one of the networks with a handler, or of local_networks, holds a metadata address.

    Raises PolicyError for a bad network.
    """
    found = False
    for texts in batches(local_networks, PARSED):
        found = found or any(_holds(network(text)[0]) for text in texts)
        yield
    for batch in batches(hosts):
        found = found or any(map(_holds, batch))
        yield
    return found


def _holds(named: Network) -> bool:
    return any(overlap(named, one) for one in METADATA)
