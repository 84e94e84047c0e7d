"""Hub streams on real sockets: full buffers, half-close, reset, cancellation."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.socket.loopback import hub_pair, in_trio, open_hub, pair, plain, read_all, reset

LARGE = bytes(range(256)) * 20_000


@in_trio
async def test_bytes_pass_both_ways() -> None:
    async with hub_pair() as (stream, peer):
        for text in (b"one", b"two"):
            await peer.send_all(text)
            assert await stream.receive_some() == text
            await stream.send_all(text)
            assert await peer.receive_some() == text


@in_trio
async def test_bytes_that_came_before_the_registration_are_read() -> None:
    async with open_hub() as hub:
        theirs, ours = pair()
        theirs.sendall(b"early")
        stream = hub.stream(ours)
        assert await stream.receive_some(2) == b"ea"
        assert await stream.receive_some() == b"rly"
        theirs.close()
        assert await stream.receive_some() == b""
        assert await stream.receive_some() == b""
        stream.close_nowait()


@in_trio
async def test_a_socket_that_cannot_be_registered_is_closed_and_the_next_one_works() -> None:
    async with open_hub() as hub:
        theirs, ours = pair()
        hub._epoll.register(ours.fileno())  # so that the hub's own registration fails
        with pytest.raises(FileExistsError):
            hub.stream(ours)
        assert ours.fileno() == -1
        assert theirs.recv(1) == b""
        theirs.close()
    async with hub_pair() as (stream, peer):
        await peer.send_all(b"next")
        assert await stream.receive_some() == b"next"


@in_trio
async def test_more_than_the_buffers_hold_passes_at_the_readers_pace() -> None:
    async with hub_pair(small=True) as (stream, peer), trio.open_nursery() as nursery:
        is_sent = trio.Event()

        async def send() -> None:
            await stream.send_all(LARGE)
            is_sent.set()
            await stream.send_eof()

        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert not is_sent.is_set()
        assert await read_all(peer) == (LARGE, False)


@in_trio
async def test_a_stream_closed_by_half_still_reads_and_a_peer_closed_by_half_is_still_written_to() -> None:
    async with hub_pair() as (stream, peer):
        await stream.send_eof()
        assert await peer.receive_some() == b""
        await peer.send_all(b"still")
        assert await stream.receive_some() == b"still"
    async with hub_pair() as (stream, peer):
        await peer.send_eof()
        assert await stream.receive_some() == b""
        await stream.send_all(b"still")
        assert await peer.receive_some() == b"still"


@pytest.mark.parametrize("is_reset", [False, True])
@in_trio
async def test_a_peers_close_and_its_reset_are_distinguished(is_reset: bool) -> None:
    told: list[bool] = []
    seen = trio.Event()

    def tell(was_reset: bool) -> None:
        told.append(was_reset)
        seen.set()

    async with open_hub() as hub:
        theirs, ours = pair()
        stream = hub.stream(ours)
        stream.on_leave = tell
        assert not stream.has_left
        if is_reset:
            reset(theirs)
        else:
            theirs.close()
        await seen.wait()
        assert told == [is_reset]
        assert stream.has_left
        assert not stream.has_unread()
        stream.close_nowait()


@in_trio
async def test_unread_bytes_are_seen_without_being_taken() -> None:
    async with hub_pair() as (stream, peer):
        assert not stream.has_unread()
        await peer.send_all(b"x")
        await trio.lowlevel.wait_readable(stream.socket)
        assert stream.has_unread()
        assert await stream.receive_some() == b"x"
        assert not stream.has_unread()


@in_trio
async def test_a_reset_breaks_the_reader_and_the_writer() -> None:
    async with open_hub() as hub:
        for use in ("read", "write"):
            theirs, ours = pair(small=True)
            stream = hub.stream(ours)
            async with trio.open_nursery() as nursery:

                async def use_it(stream=stream, use=use) -> None:
                    with pytest.raises(trio.BrokenResourceError):
                        await (stream.receive_some() if use == "read" else stream.send_all(LARGE))

                nursery.start_soon(use_it)
                await trio.testing.wait_all_tasks_blocked(0.05)
                reset(theirs)
            stream.close_nowait()


@in_trio
async def test_a_reset_of_ours_is_seen_as_one_and_a_close_is_not() -> None:
    for is_reset in (True, False):
        async with hub_pair() as (stream, peer):
            await stream.send_all(b"part")
            (stream.reset if is_reset else stream.close_nowait)()
            with pytest.raises(trio.ClosedResourceError):
                await stream.receive_some()
            with pytest.raises(trio.ClosedResourceError):
                await stream.send_all(b"x")
            stream.reset()
            assert (await read_all(peer))[1] is is_reset


@in_trio
async def test_closing_wakes_the_waiting_tasks() -> None:
    async with hub_pair(small=True) as (stream, _), trio.open_nursery() as nursery:

        async def read() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await stream.receive_some()

        async def write() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await stream.send_all(LARGE)

        nursery.start_soon(read)
        nursery.start_soon(write)
        await trio.testing.wait_all_tasks_blocked(0.05)
        stream.close_nowait()


@in_trio
async def test_two_tasks_do_not_read_or_write_at_once() -> None:
    async with hub_pair(small=True) as (stream, _), trio.open_nursery() as nursery:
        nursery.start_soon(stream.receive_some)
        nursery.start_soon(stream.send_all, LARGE)
        await trio.testing.wait_all_tasks_blocked(0.05)
        with pytest.raises(trio.BusyResourceError):
            await stream.receive_some()
        with pytest.raises(trio.BusyResourceError):
            await stream.send_all(b"x")
        nursery.cancel_scope.cancel()


@in_trio
async def test_a_cancelled_reader_loses_nothing() -> None:
    async with hub_pair() as (stream, peer):
        for number in range(40):  # more calls than between two checkpoints of the stream
            await peer.send_all(b"%d" % number)
            await trio.lowlevel.wait_readable(stream.socket)
            got = b""
            with trio.CancelScope() as scope:
                scope.cancel()
                got = await stream.receive_some()
            assert (got or await stream.receive_some()) == b"%d" % number
            with trio.CancelScope() as scope:
                scope.cancel()
                await stream.receive_some()
            assert scope.cancelled_caught


@in_trio
async def test_a_busy_stream_runs_checkpoints_for_other_tasks() -> None:
    async with hub_pair() as (stream, peer), trio.open_nursery() as nursery:
        turns = 0

        async def take_turns() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        nursery.start_soon(take_turns)
        await peer.send_all(b"x" * 1000)
        await trio.lowlevel.wait_readable(stream.socket)
        turns = 0
        for _ in range(1000):
            assert await stream.receive_some(1) == b"x"
        assert turns >= 10
        nursery.cancel_scope.cancel()


@in_trio
async def test_a_thousand_streams_are_woken_each_for_its_own() -> None:
    async with open_hub() as hub, trio.open_nursery() as nursery:
        pairs = [pair() for _ in range(1000)]

        async def echo(stream) -> None:
            while data := await stream.receive_some():
                await stream.send_all(data)
            stream.close_nowait()

        async def ask(number: int, stream: trio.SocketStream) -> None:
            for turn in range(3):
                await stream.send_all(b"%d %d" % (number, turn))
                assert await stream.receive_some() == b"%d %d" % (number, turn)
            await stream.aclose()

        for number, (theirs, ours) in enumerate(pairs):
            nursery.start_soon(echo, hub.stream(ours))
            nursery.start_soon(ask, number, plain(theirs))
