"""Host names and globs in the canonical form in which they are compared.

Pure. Case-folded, IDNA-encoded (UTS 46), without a trailing dot; an address as inet_ntop(3) writes it.
"""

from __future__ import annotations

import ipaddress
import re

import idna

from pyinterceptor._relay import ffi, lib
from pyinterceptor.errors import PolicyError
from pyinterceptor.policy.addresses import Address, Network, single

NAME = re.compile(r"[a-z0-9_*]([a-z0-9_*-]*[a-z0-9_*])?(\.[a-z0-9_*]([a-z0-9_*-]*[a-z0-9_*])?)*")


def canonical(host: str) -> str:
    """Returns the host in the form in which rules compare it.

    Raises PolicyError if it is neither a host name nor an address.
    """
    found = _address(host)
    return _name(host) if found is None else _written(found)


def key(host: str) -> str | Network:
    """Returns the key of a row for this canonical host or glob. An address becomes a network of one address."""
    found = _address(host)
    return host if found is None else single(found)


def is_glob(text: str) -> bool:
    return "*" in text


def _address(text: str) -> Address | None:
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if ":" not in bare and not bare[-1:].isdecimal():
        return None  # before ip_address(), which is slow: most hosts are names
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return None
    if address.version == 6 and address.scope_id is not None:
        return None
    return address


def _written(address: Address) -> str:
    """Returns the address as C writes it; ipaddress writes some addresses differently."""
    made, text = ffi.new("char[]", lib.HOST_MAX + 1), str(address).encode("ascii")
    written = lib.host_canonical(text, len(text), made)
    return str(ffi.string(made, written).decode("ascii"))


def _name(text: str) -> str:
    name = text.removesuffix(".").lower()
    if not name.isascii():
        try:
            name = ".".join(_label(label) for label in name.split("."))
        except idna.IDNAError as error:
            raise PolicyError(f"host {text!r}: {error}") from error
    if len(name) > lib.HOST_MAX or not NAME.fullmatch(name):
        raise PolicyError(f"host {text!r} is not a host name or address")
    return name


def _label(label: str) -> str:
    return label if label.isascii() else idna.encode(label, uts46=True).decode("ascii")
