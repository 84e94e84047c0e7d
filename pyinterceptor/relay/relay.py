"""The C relay for Trio: calls go straight to C, events come from it in batches.

The receiver of a `Handoff` owns its socket, and calls `returned` when that is closed.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import re
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, fields
from typing import Any

import trio

from pyinterceptor._relay import ffi, lib
from pyinterceptor.arguments import Values, check, is_count, is_seconds
from pyinterceptor.capture.capture import Attachment
from pyinterceptor.errors import CaptureError
from pyinterceptor.policy.addresses import Address, packed, unpacked
from pyinterceptor.policy.budget import Budget
from pyinterceptor.relay.records import Cause, Kind, Record, parse

BATCH = 64  # events taken at once
RECORDS = 256  # taken at a time
TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"  # RFC 9110 section 5.6.2
METHODS = re.compile(rf" *({TOKEN} *(, *{TOKEN} *)*)?")
PACE = 0.02  # seconds between two reads of records, so that they come in batches


@dataclass(frozen=True, slots=True)
class Options:
    """Counts, and deadlines in seconds; 0 takes the default of `struct relay_options` (cext/relay.h).

    `content_methods` adds methods whose requests usually have content, separated by commas, to POST, PUT, PATCH,
    QUERY, PROPFIND, REPORT and SEARCH: such a request stays on its connection, here and in `fetch`.

    `flows` and `descriptors` limit all containers together; the process's other descriptors are the interceptor's own.
    `reserve` is a number of flows, with two descriptors each, that every container has to itself. Its default leaves
    room for a thousand attached containers.

    `ports` is the number of local ports for connections of all containers to one destination (address and port). Its
    default is three quarters of the host's range; the rest is the host's own.

    Raises PolicyError for a value of another type or a negative one.
    """

    threads: int = 0
    flows: int = 0
    opening_deadline: float = 0.0
    sniff_wait: float = 0.0
    idle_deadline: float = 0.0
    dial_deadline: float = 0.0
    linger_deadline: float = 0.0
    close_deadline: float = 0.0
    settle_deadline: float = 0.0
    content_methods: str = ""
    descriptors: int = 0
    reserve: int = 0
    ports: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            is_right, wanted = _ALLOWED[type(field.default)]
            value = getattr(self, field.name)
            check(is_right(value), "Options", field.name, wanted, value)


def _are_methods(value: object) -> bool:
    return isinstance(value, str) and len(value) < lib.CONTENT_METHODS_MAX and METHODS.fullmatch(value) is not None


_ALLOWED: dict[type, Values] = {
    int: (is_count, "a count"),
    float: (is_seconds, "seconds"),
    str: (_are_methods, f"up to {lib.CONTENT_METHODS_MAX - 1} letters of methods, separated by commas"),
}


@dataclass(frozen=True, slots=True)
class Handoff:
    """A flow that C hands over to Python. `cause` is an earlier failure, `Cause.DONE` if there was none."""

    fd: int
    flow: int
    container: int
    protocol: int
    verdict: int
    rule: int
    generation: int
    cause: Cause
    client: tuple[Address, int]
    destination: tuple[Address, int]
    host: str
    is_synthetic: bool  # the destination is synthetic, and belongs to its name until `returned`
    began: float  # this and the next two: seconds of CLOCK_MONOTONIC; 0.0 means never
    judged: float
    connected: float


@dataclass(frozen=True, slots=True)
class Resolve:
    """A flow waits for this name: answer with `publish_name` or `name_failed`."""

    container: int
    name: str


Event = Handoff | Resolve


@dataclass(frozen=True, slots=True)
class Counters:
    """Totals of one container, or of all containers; `flows` are open now.

    `reset`: reset by a peer, or with their container. `timed_out`: idle for too long. `no_resources`: out of memory or
    descriptors; the total also counts connections whose container is unknown.
    """

    accepted: int
    spliced: int
    handled: int
    refused: int
    failed_dials: int
    over_budget: int
    reset: int
    timed_out: int
    no_resources: int
    sent: int
    received: int
    flows: int


@dataclass(frozen=True, slots=True)
class Dropped:
    """Counts of dropped records by their kind."""

    flows: int
    refusals: int
    requests: int


class Pumping:
    """Two sockets that are lent to C, made by `Relay.pump`."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._moved = 0
        self._error = 0

    @property
    def moved(self) -> int:
        """Bytes that have reached the sink."""
        return self._moved if self._handle is None else int(lib.relay_pump_moved(self._handle))

    async def wait(self) -> None:
        """Returns when all bytes have moved or the source has ended.

        Raises OSError with the errno of the side that failed.
        """
        if self._handle is not None:
            await trio.lowlevel.wait_readable(lib.relay_pump_fd(self._handle))
            self.finish()
        if self._error:
            raise OSError(self._error, os.strerror(self._error))

    def finish(self) -> None:
        """Stops the pump and returns the sockets to their owner."""
        if self._handle is None:
            return
        handle, self._handle = self._handle, None
        error = ffi.new("int *")
        self._moved = int(lib.relay_pump_finish(handle, error))
        self._error = error[0]


class Descriptors:
    """Counts the descriptors that Python opens for one container. Made by `Relay.descriptors`."""

    def __init__(self, handle: Any, container: int) -> None:
        self._handle = handle
        self._container = container

    def take(self) -> bool:
        """Counts one more. False if the container's budget is used up: then none may be opened."""
        return bool(lib.relay_lend(self._handle, self._container, 1))

    def give_back(self) -> None:
        """Reports that one was closed."""
        lib.relay_give_back(self._handle, self._container, 1)


class Port:
    """A local port for one connection of a container. Made by `Relay.take_port`."""

    def __init__(self, handle: Any, port: Any, number: int, range: int) -> None:
        self.number = number  # the connection must bind it, with SO_REUSEADDR; 0: any
        self.range = range  # the value of IP_LOCAL_PORT_RANGE; 0: unknown
        self._handle = handle
        self._port = port

    def give_back(self, fd: int) -> None:
        """Reports, once, that the connection is about to be closed; -1 if there was none."""
        lib.relay_give_port(self._handle, self._port, fd)


class Relay:
    """Owns the C relay. Made by `open_relay`."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        options = lib.relay_options_of(handle)
        methods = ffi.string(options.content_methods).decode()
        self.content_methods = frozenset(filter(None, map(str.strip, methods.split(","))))
        self._batch = ffi.new("struct relay_event[]", BATCH)
        self._records = ffi.new("struct relay_record[]", RECORDS)

    def listen(self, listener: socket.socket) -> int:
        """Accepts connections from one more capture's listener (borrowed); returns the capture's number."""
        return self._check(lib.relay_listen(self._handle, listener.fileno()), "listen")

    def add_container(self, capture: int, attachment: Attachment, budget: Budget) -> None:
        """Adds a container, before its interface exists. Until a policy is published its flows are refused."""
        limits = ffi.new("struct relay_budget *")
        limits.flows, limits.openings, limits.handoffs = budget.flows, budget.openings, budget.handoffs
        limits.pipes, limits.names, limits.descriptors = budget.pipes, budget.names, budget.descriptors or 0
        limits.ports, limits.buffers = budget.ports or 0, budget.buffers
        to = ffi.new("struct attachment *")
        to.capture, to.interface = capture, attachment.interface
        to.v4, to.v6 = packed(attachment.v4), packed(attachment.v6)
        result = lib.relay_add_container(self._handle, attachment.container, to, limits)
        if result == -errno.EDQUOT:
            raise CaptureError(f"add a container: {self._fullness()}")
        self._check(result, "add a container")

    def _fullness(self) -> str:
        options = lib.relay_options_of(self._handle)
        return (
            f"no reserve of {options.reserve} flows is left for it, of {options.flows} flows and {options.descriptors} "
            "descriptors; stop a container, lower Options(reserve=…), or raise the limit of open files (ulimit -n)"
        )

    def descriptors(self, container: int) -> Descriptors:
        """Returns the container's budget of descriptors."""
        return Descriptors(self._handle, container)

    def take_port(self, container: int, ip: str, port: int) -> Port | None:
        """Takes a local port for a connection to this address. None if the container can't have one now."""
        number, range = ffi.new("uint32_t *"), ffi.new("uint32_t *")
        to = _packed_endpoint(ipaddress.ip_address(ip), port)
        taken = lib.relay_take_port(self._handle, container, to, number, range)
        return None if taken == ffi.NULL else Port(self._handle, taken, number[0], range[0])

    def publish_policy(self, container: int, table: bytes) -> None:
        """Replaces the container's policy atomically."""
        self._check(lib.relay_publish_policy(self._handle, container, table, len(table)), "publish a policy")

    def finish_flows(self, container: int) -> None:
        """Resets each flow of the container once its sent bytes are delivered and none has moved for a while.

        Call it when the container's processes have ended; `count(container).flows` is 0 when all are closed.
        """
        self._check(lib.relay_finish_flows(self._handle, container), "finish the flows of a container")

    def end_flows(self, container: int) -> None:
        """Begins to reset every flow of the container; `count(container).flows` is 0 when all are closed."""
        self._check(lib.relay_end_flows(self._handle, container), "end the flows of a container")

    def remove_container(self, container: int) -> None:
        """Resets every flow of the container and forgets it."""
        self._check(lib.relay_remove_container(self._handle, container), "remove a container")

    def publish_name(
        self,
        container: int,
        name: str,
        synthetic: tuple[Address, Address] | None,
        addresses: Sequence[Address],
        seconds: float,
    ) -> bool:
        """Sets the addresses that `name` stands for; the real ones for `seconds`.

        Returns False if the table is full, or if flows to these synthetic addresses are open under another name.
        """
        pair = ffi.NULL if synthetic is None else packed(synthetic[0]) + packed(synthetic[1])
        some = addresses[: lib.NAME_ADDRESSES_MAX]
        real = b"".join(map(packed, some))
        result = lib.relay_publish_name(
            self._handle, container, name.encode("ascii"), pair, real, len(some), seconds
        )
        return bool(result == 0)

    def publish_addresses(self, container: int, name: str, packed: bytes, seconds: float) -> bool:
        """As `publish_name`, for a name without synthetic addresses, with real ones of 16 bytes each."""
        count = min(len(packed) // 16, lib.NAME_ADDRESSES_MAX)
        text = name.encode("ascii")
        return bool(lib.relay_publish_name(self._handle, container, text, ffi.NULL, packed, count, seconds) == 0)

    @property
    def naming(self) -> tuple[Any, Any, Any]:
        """The relay in C, with its functions that publish and decide a name: `struct resolver_options`."""
        publish, decide = (ffi.addressof(lib, name) for name in ("relay_publish_name", "relay_decide_name"))
        return self._handle, publish, decide

    def name_failed(self, container: int, name: str) -> None:
        """Reports that the name has no address; flows that wait for it are reset."""
        lib.relay_name_failed(self._handle, container, name.encode("ascii"))

    def may_dial(self, address: Address, port: int, *, container: int = 0, local: bool = False) -> bool:
        """Whether the dial guard allows a connection to this resolved address.

        An address without a route is allowed: connecting to it fails as unreachable.
        """
        to = _packed_endpoint(address, port)
        return bool(lib.relay_may_dial(self._handle, container, to, int(local)) != lib.DIAL_REFUSED)

    def standing(self, container: int, host: str, address: Address, port: int) -> int:
        """Returns the standing of an address towards a client that says `host`: `relay_standing` (cext/relay.h)."""
        endpoint = ffi.new("struct endpoint *")
        endpoint.address = packed(address)
        endpoint.port = port
        return int(lib.relay_standing(self._handle, container, host.encode("ascii", "replace"), endpoint))

    def returned(self, event: Handoff, sent: int, received: int) -> None:
        """Reports that a handed-off flow was closed; frees its place in the budget and its synthetic address."""
        held = packed(event.destination[0]) if event.is_synthetic else ffi.NULL
        lib.relay_returned(self._handle, event.container, held, sent, received)

    def count(self, container: int = 0) -> Counters:
        """Returns the counters of one container; those of all containers for 0."""
        out = ffi.new("struct relay_counters *")
        lib.relay_count(self._handle, container, out)
        return Counters(*(getattr(out, name) for name in Counters.__dataclass_fields__))

    async def events(self) -> AsyncGenerator[list[Event], None]:
        """Yields batches of events, until closed."""
        ready = lib.relay_event_fd(self._handle)
        while True:
            await trio.lowlevel.wait_readable(ready)
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(ready)
            while count := lib.relay_take(self._handle, self._batch, BATCH):
                yield [_event(self._batch[i]) for i in range(count)]

    def subscribe(self, kinds: Kind) -> None:
        """Sets the kinds of records that C makes from now on. There is one set for all readers."""
        self._check(lib.relay_subscribe(self._handle, kinds), "subscribe to records")

    async def records(self) -> AsyncGenerator[list[Record], None]:
        """Yields batches of records, until closed."""
        ready = lib.relay_record_fd(self._handle)
        while True:
            await trio.lowlevel.wait_readable(ready)
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(ready)
            while batch := self.records_nowait():
                yield batch
            await trio.sleep(PACE)

    def records_nowait(self) -> list[Record]:
        """Takes some waiting records; empty if there are none."""
        return parse(self._records, lib.relay_take_records(self._handle, self._records, RECORDS))

    def count_dropped(self) -> Dropped:
        """Returns the counts of dropped records since the start."""
        out = ffi.new("struct relay_dropped *")
        lib.relay_count_dropped(self._handle, out)
        return Dropped(out.flows, out.refusals, out.requests)

    @contextmanager
    def pump(self, container: int, source: socket.socket, sink: socket.socket, limit: int) -> Iterator[Pumping]:
        """Lends two sockets to C while the block lasts; up to `limit` bytes move from one to the other.

        Raises OSError if the pump can't begin, with EDQUOT if the container's budget is used up.
        """
        handle = lib.relay_pump_start(self._handle, container, source.fileno(), sink.fileno(), limit)
        if handle == ffi.NULL:
            raise OSError(ffi.errno, os.strerror(ffi.errno))
        pumping = Pumping(handle)
        try:
            yield pumping
        finally:
            pumping.finish()

    def close(self) -> None:
        lib.relay_close(self._handle)

    @staticmethod
    def _check(result: int, step: str) -> int:
        if result < 0:
            raise CaptureError(f"relay: {step}: {os.strerror(-result)}")
        return result


@asynccontextmanager
async def open_relay(options: Options) -> AsyncIterator[Relay]:
    """Starts the relay's threads; they end with the block, their flows reset.

    The threads dial from the network namespace of the calling thread.
    """
    given = ffi.new("struct relay_options *")
    for name in Options.__dataclass_fields__:
        value = getattr(options, name)
        setattr(given, name, value.encode() if isinstance(value, str) else value)
    handle = lib.relay_open(given)
    if handle == ffi.NULL:
        raise CaptureError(f"start the relay: {os.strerror(ffi.errno)}")
    relay = Relay(handle)
    try:
        yield relay
    finally:
        relay.close()


def _packed_endpoint(address: Address, port: int) -> Any:
    endpoint = ffi.new("struct endpoint *")
    endpoint.address = packed(address)
    endpoint.port = port
    return endpoint


def _event(raw: Any) -> Event:
    host = ffi.string(raw.host).decode("ascii", "replace")
    if raw.kind == lib.EVENT_RESOLVE:
        return Resolve(raw.container, host)
    decision = raw.decision
    return Handoff(
        raw.fd,
        raw.flow,
        raw.container,
        raw.protocol,
        decision.verdict,
        decision.rule,
        decision.generation,
        Cause(raw.cause),
        _endpoint(raw.client),
        _endpoint(raw.destination),
        host,
        bool(raw.is_synthetic),
        raw.began,
        raw.judged,
        raw.connected,
    )


def _endpoint(raw: Any) -> tuple[Address, int]:
    return unpacked(bytes(raw.address)), raw.port
