"""Rules as the flat table that C reads, and the one matcher, called from Python.

The layout is `struct policy_header` and what it points to (cext/policy.h).
"""

from __future__ import annotations

from dataclasses import dataclass

from pyinterceptor._relay import ffi, lib
from pyinterceptor.policy.addresses import Address, packed
from pyinterceptor.policy.rules import Rules

HEADER = ffi.sizeof("struct policy_header")
PATTERN = ffi.sizeof("struct policy_pattern")
NETWORK = ffi.sizeof("struct policy_network")


@dataclass(frozen=True, slots=True)
class Decision:
    """`verdict` is one of lib.VERDICT_*; `rule` the id that decided, or lib.NO_RULE."""

    verdict: int
    rule: int
    generation: int


def compile(rules: Rules, generation: int) -> bytes:
    """The table of these rules.

    Raises: PolicyError for rules that can't be.
    """
    exact, globs, networks = rules.exact(), rules.globs(), rules.networks()
    exact_offset = HEADER
    glob_offset = exact_offset + PATTERN * len(exact)
    local_offset = glob_offset + PATTERN * len(globs)
    text_offset = local_offset + NETWORK * len(networks)
    patterns, text = ffi.new("struct policy_pattern[]", len(exact) + len(globs)), bytearray()
    for slot, (host, rule) in zip(patterns, exact + globs, strict=True):
        slot.text_offset, slot.text_length, slot.rule = text_offset + len(text), len(host), rule
        text += host
    locals_ = ffi.new("struct policy_network[]", len(networks))
    for slot, named in zip(locals_, networks, strict=True):
        slot.address, slot.prefix, slot.port = named.address, named.prefix, named.port
    header = ffi.new("struct policy_header *")
    header.magic, header.size, header.generation = lib.POLICY_MAGIC, text_offset + len(text), generation
    header.flags = (lib.POLICY_INTERNET if rules.internet else 0) | (
        lib.POLICY_CATCH_ALL if rules.catch_all is not None else 0
    )
    header.catch_all = lib.NO_RULE if rules.catch_all is None else rules.catch_all
    header.exact_count, header.exact_offset = len(exact), exact_offset
    header.glob_count, header.glob_offset = len(globs), glob_offset
    header.local_count, header.local_offset = len(networks), local_offset
    return b"".join((bytes(ffi.buffer(header)), bytes(ffi.buffer(patterns)), bytes(ffi.buffer(locals_)), bytes(text)))


def decide(table: bytes, protocol: int, host: str, destination: tuple[Address, int]) -> Decision:
    """What a flow or request of this protocol (lib.PROTOCOL_*), host and destination gets."""
    endpoint = ffi.new("struct endpoint *")
    endpoint.address, endpoint.port = packed(destination[0]), destination[1]
    name = host.encode("ascii", "replace")
    made = lib.policy_decide(ffi.from_buffer(table), protocol, name, len(name), endpoint)
    return Decision(made.verdict, made.rule, made.generation)
