"""A container's run: its start beside others, its stop in order, and failures that end one thing alone."""

from __future__ import annotations

import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from pyinterceptor import Container, PolicyError, Response, RuntimeFailure, fetch
from pyinterceptor.app.container import container_id
from pyinterceptor.capture.capture import Attachment
from pyinterceptor.errors import CaptureError
from tests.conftest import descriptors
from tests.socket.interception import Interception, interception
from tests.socket.loopback import in_trio, plain, whole

FOREVER = 60.0  # seconds of grace that no test waits for


def handled_by(handler: Any) -> type[Container]:
    class Handled(Container):
        enable_internet = False

    Handled.outbound = handler
    return Handled


def living_tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


async def response_on(client: socket.socket) -> bytes:
    """Returns all bytes up to the end, a reset, or a whole answer of ours."""
    stream, got = plain(client.dup()), b""
    try:
        while b"\r\n\r\n" not in got and (data := await stream.receive_some()):
            got += data
    except trio.BrokenResourceError:
        got += b"RESET"
    finally:
        await trio.aclose_forcefully(stream)
    return got


# --- stop ---


class Leaving:
    """A handler that reports its begin and the way it ended."""

    def __init__(self, seconds: float) -> None:
        self.begun, self.ended = trio.Event(), ""
        self._seconds = seconds

    async def __call__(self, request: Any, env: Any, ctx: Any) -> Response:
        self.begun.set()
        try:
            await trio.sleep(self._seconds)
            self.ended = "finished"
        except trio.Cancelled:
            self.ended = "cancelled"
            raise
        return Response("ok")


@pytest.mark.parametrize("grace", [0, 0.2])
@in_trio
async def test_a_handler_that_runs_through_the_grace_is_cancelled_then_and_gone_when_stop_returns(grace: float) -> None:
    leaving = Leaving(FOREVER)
    async with interception([cls := handled_by(leaving)]) as here:
        before, tasks = descriptors(), living_tasks()
        container = await here.started(cls)
        here.asks("default")
        await leaving.begun.wait()
        began = trio.current_time()
        await container.stop(grace=grace)
        assert leaving.ended == "cancelled"
        assert grace <= trio.current_time() - began < grace + 2
        assert (descriptors(), living_tasks()) == (before, tasks)
        assert here.interceptor.count().flows == 0
        assert here.interceptor.runs == here.capture.reserved == {}


@in_trio
async def test_a_handler_that_ends_within_the_grace_finishes_although_its_client_has_gone() -> None:
    leaving = Leaving(0.3)
    async with interception([cls := handled_by(leaving)]) as here:
        container = await here.started(cls)
        here.asks("default")
        await leaving.begun.wait()
        began = trio.current_time()
        await container.stop(grace=FOREVER)
        assert leaving.ended == "finished"
        assert trio.current_time() - began < 5


@in_trio
async def test_a_handler_whose_client_leaves_before_the_stop_is_cancelled_as_ever() -> None:
    leaving = Leaving(FOREVER)
    async with interception([cls := handled_by(leaving)]) as here:
        await here.started(cls)
        client = here.asks("default")
        await leaving.begun.wait()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, 0, 0, 0, 0, 0, 0, 0]))
        client.close()
        with trio.fail_after(5):
            while leaving.ended != "cancelled":
                await trio.lowlevel.checkpoint()


@in_trio
async def test_a_fetch_in_flight_is_closed_when_the_grace_is_over() -> None:
    async def ask(request: Any, env: Any, ctx: Any) -> Response:
        return await fetch(f"http://127.0.0.1:{port}/", local=True)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        listener.setblocking(False)
        async with interception([cls := handled_by(ask)]) as here:
            container = await here.started(cls)
            here.asks("default")
            await trio.lowlevel.wait_readable(listener)
            origin = plain(listener.accept()[0])
            assert b"GET / HTTP/1.1" in await origin.receive_some()
            before = here.interceptor.count().flows
            await container.stop(grace=0.1)
            assert before == 0  # Python had the flow
            assert await rest_of(origin) == b""
            await origin.aclose()


async def rest_of(stream: trio.SocketStream) -> bytes:
    try:
        return bytes(await stream.receive_some())
    except trio.BrokenResourceError:
        return b""


class Open(Container):
    """Reaches the test's servers."""

    local_networks = ("127.0.0.0/8",)


def drained(origin: socket.socket) -> tuple[int, str]:
    """Returns the number of bytes that come, and whether a close or a reset ends them."""
    count = 0
    try:
        while got := len(origin.recv(1 << 16)):
            count += got
    except ConnectionResetError:
        return count, "reset"
    return count, "closed"


@asynccontextmanager
async def uploaded(here: Interception, cls: type[Container], size: int) -> AsyncIterator[tuple[Any, socket.socket]]:
    """Opens a container that has sent bytes to a server which hasn't read them."""
    container = await here.started(cls)
    [number] = here.interceptor.runs
    with here.origin(number) as listening:
        client = here.containers["default"].connect(here.capture.address)
        await trio.to_thread.run_sync(client.sendall, bytes(size))
        with listening.accept()[0] as origin:
            origin.settimeout(30)
            yield container, origin


@in_trio
async def test_bytes_that_were_sent_before_the_stop_reach_a_server_that_stands_still_for_a_while() -> None:
    async with interception([Open]) as here, uploaded(here, Open, 1_000_000) as (container, origin):
        stopped = trio.Event()

        async def stop() -> None:
            await container.stop(grace=FOREVER)
            stopped.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop)
            with trio.move_on_after(1.5):
                await stopped.wait()
            assert not stopped.is_set()
            assert await trio.to_thread.run_sync(drained, origin) == (1_000_000, "closed")
        assert here.interceptor.count().flows == 0
        assert here.interceptor.count().sent == 1_000_000


@in_trio
async def test_a_server_that_reads_nothing_is_reset_when_the_grace_is_over() -> None:
    async with interception([Open]) as here, uploaded(here, Open, 1_000_000) as (container, origin):
        began = trio.current_time()
        await container.stop(grace=1)
        assert 1 <= trio.current_time() - began < FOREVER / 2
        assert here.interceptor.count().flows == 0
        count, end = await trio.to_thread.run_sync(drained, origin)
        assert count < 1_000_000
        assert end == "reset"


@in_trio
async def test_a_flow_with_nothing_left_to_deliver_ends_before_the_grace() -> None:
    async with interception([Open]) as here, uploaded(here, Open, 1000) as (container, origin):
        assert whole(origin, 1000) == bytes(1000)
        began = trio.current_time()
        await container.stop(grace=FOREVER)
        assert trio.current_time() - began < FOREVER / 2
        assert here.interceptor.count().flows == 0


@in_trio
async def test_a_stop_that_is_cancelled_ends_the_grace_and_still_leaves_nothing() -> None:
    leaving = Leaving(FOREVER)
    async with interception([cls := handled_by(leaving)]) as here:
        tasks = living_tasks()
        container = await here.started(cls)
        here.asks("default")
        await leaving.begun.wait()
        with trio.move_on_after(0.1) as scope:
            await container.stop(grace=FOREVER)
        assert scope.cancelled_caught
        assert leaving.ended == "cancelled"
        assert living_tasks() == tasks
        assert here.interceptor.runs == here.capture.reserved == {}


@in_trio
async def test_of_two_stops_at_once_the_shorter_grace_holds_and_both_wait_for_the_end() -> None:
    leaving = Leaving(FOREVER)
    async with interception([cls := handled_by(leaving)]) as here:
        container = await here.started(cls)
        here.asks("default")
        await leaving.begun.wait()
        async with trio.open_nursery() as nursery:

            async def stop(grace: float) -> None:
                await container.stop(grace=grace)
                assert here.interceptor.runs == {}

            nursery.start_soon(stop, FOREVER)
            while not here.containers["default"].has_ended:
                await trio.lowlevel.checkpoint()
            assert leaving.ended == ""
            nursery.start_soon(stop, 0.1)
        assert leaving.ended == "cancelled"
        await container.stop()


@pytest.mark.parametrize("is_nested", [False, True])
@in_trio
async def test_a_handler_that_stops_its_own_container_is_cancelled_with_it(is_nested: bool) -> None:
    ends: list[str] = []

    async def stop(request: Any, env: Any, ctx: Any) -> Response:
        try:
            async with trio.open_nursery() as nursery:
                if is_nested:
                    nursery.start_soon(container.stop)
                else:
                    await container.stop(grace=0.1)
        finally:
            ends.append("handler")
        return Response("stopped")

    async with interception([cls := handled_by(stop)]) as here:
        container = await here.started(cls)
        here.asks("default")
        while not container.has_ended:
            await trio.lowlevel.checkpoint()
        with trio.fail_after(5):
            await container.stop(grace=0.1)
        assert ends == ["handler"]
        assert here.interceptor.runs == here.capture.reserved == {}


@in_trio
async def test_a_container_that_ends_by_itself_leaves_nothing_and_the_next_one_is_fresh() -> None:
    async with interception([cls := handled_by(Leaving(0))]) as here:
        container = await here.started(cls)
        here.containers["default"].dies.set()
        with trio.fail_after(5):
            while here.interceptor.runs:
                await trio.lowlevel.checkpoint()
        assert container.has_ended
        assert here.capture.reserved == {}
        assert await here.started(cls) is container
        assert not container.has_ended


# --- starts ---


@in_trio
async def test_a_start_that_waits_holds_up_no_other_container_and_is_waited_for_by_its_own_name() -> None:
    go = trio.Event()
    got: list[Any] = []

    async def starting(name: str) -> None:
        if name == "slow":
            await go.wait()

    async with interception([cls := handled_by(Leaving(0))], starting=starting) as here, trio.open_nursery() as nursery:

        async def get() -> None:
            got.append(await here.started(cls, "slow"))

        nursery.start_soon(get)
        nursery.start_soon(get)
        await trio.testing.wait_all_tasks_blocked(0.05)
        quick = await here.started(cls, "quick")
        assert got == []
        await quick.stop()
        go.set()
        with trio.fail_after(5):
            while len(got) < 2:
                await trio.lowlevel.checkpoint()
        assert got[0] is got[1]


@in_trio
async def test_a_start_that_is_cancelled_leaves_nothing_and_an_old_handle_stops_no_new_run() -> None:
    waits, entered = trio.Event(), trio.Event()
    is_slow = False

    async def starting(name: str) -> None:
        if is_slow:
            entered.set()
            await waits.wait()

    async with interception([cls := handled_by(Leaving(0))], starting=starting) as here:
        tasks = living_tasks()
        old = await here.started(cls)
        await old.stop()
        is_slow = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(here.started, cls)
            await entered.wait()
            await old.stop()  # returns at once: the current start belongs to another run
            assert len(here.interceptor.runs) == 1
            nursery.cancel_scope.cancel()
        assert living_tasks() == tasks
        assert here.interceptor.runs == here.capture.reserved == {}
        is_slow = False
        assert not (await here.started(cls)).has_ended


@in_trio
async def test_a_flow_that_comes_while_a_failed_start_ends_does_not_end_the_interceptor() -> None:
    """The namespace is attached and its processes have connected when the rest of the start fails."""

    async def answer(request: Any, env: Any, ctx: Any) -> Response:
        return Response("ok")

    async with interception([cls := handled_by(answer)]) as here:

        async def fail(attachment: Attachment, netns_fd: int) -> None:
            here.asks("first")
            while not here.interceptor.count().handled:
                pass  # Trio must not take the flow yet
            raise CaptureError("attach: no")

        attach, here.capture.attach = here.capture.attach, fail  # type: ignore[method-assign]
        with pytest.raises(CaptureError):
            await here.started(cls, "first")
        here.capture.attach = attach  # type: ignore[method-assign]
        await here.started(cls, "second")
        assert b" 200 " in await response_on(here.asks("second"))


@in_trio
async def test_a_start_that_fails_is_its_callers_error_and_leaves_nothing() -> None:
    async def starting(name: str) -> None:
        if name == "bad":
            raise RuntimeFailure("start it: no")

    async with interception([cls := handled_by(Leaving(0))], starting=starting) as here:
        good = await here.started(cls, "good")
        for _ in range(2):
            with pytest.raises(RuntimeFailure, match="start it: no"):
                await here.started(cls, "bad")
        assert [run.identity.name for run in here.interceptor.runs.values()] == ["good"]
        assert not good.has_ended


# --- the instance ---


@in_trio
async def test_a_class_has_one_instance_for_each_name_however_often_it_starts() -> None:
    made: list[Any] = []

    class Own(Container):
        def __init__(self, ctx: Any, env: Any) -> None:
            super().__init__(ctx, env)
            made.append(self)

    async with interception([Own]) as here:
        for name in ("one", "two", "one"):
            await (await here.started(Own, name)).stop()
    assert [each.ctx.name for each in made] == ["one", "two"]
    assert {each.ctx.class_name for each in made} == {"Own"}
    assert [each.ctx.id for each in made] == [container_id("Own", "one"), container_id("Own", "two")]
    assert all(len(each.ctx.id) == 64 and int(each.ctx.id, 16) for each in made)


@in_trio
async def test_an_init_that_raises_is_an_error_that_names_the_class() -> None:
    class Broken(Container):
        def __init__(self, ctx: Any, env: Any) -> None:
            raise ValueError("no such thing")

    async with interception([Broken]) as here:
        raised = r"make Broken 'one': its __init__.* raised ValueError: no such thing"
        with pytest.raises(PolicyError, match=raised) as caught:
            await here.started(Broken, "one")
        assert isinstance(caught.value.__cause__, ValueError)
        assert here.interceptor.runs == {}


# --- failures ---


@in_trio
async def test_processes_that_will_not_stop_are_that_containers_failure_and_no_other_ones() -> None:
    async def ending() -> None:
        raise RuntimeFailure("stop it: its processes have not ended in 30 s")

    async with interception([cls := handled_by(Leaving(0))], ending=ending) as here:
        other = await here.started(cls, "other")
        container = await here.started(cls, "stubborn")
        with pytest.raises(RuntimeFailure, match="stop Handled 'stubborn': stop it: its processes have not ended"):
            await container.stop(grace=0)
        assert container.has_ended
        assert [run.identity.name for run in here.interceptor.runs.values()] == ["other"]
        assert not other.has_ended
        assert not (await here.started(cls, "stubborn")).has_ended


@pytest.mark.usefixtures("expected_errors")
@in_trio
async def test_a_body_whose_generator_calls_exit_ends_its_flow_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b"some"
        sys.exit("enough")

    async def answer(request: Any, env: Any, ctx: Any) -> Response:
        return Response(parts()) if request.url.path == "/exit" else Response("ok")

    async with interception([cls := handled_by(answer)]) as here:
        container = await here.started(cls)
        got = await until_end(here.asks("default", path="/exit"))
        assert got.endswith(b"some\r\nRESET")
        assert "SystemExit: enough" in caplog.text
        assert (await response_on(here.asks("default"))).startswith(b"HTTP/1.1 200")
        assert not container.has_ended


async def until_end(client: socket.socket) -> bytes:
    stream, got = plain(client.dup()), b""
    try:
        while data := await stream.receive_some():
            got += data
    except trio.BrokenResourceError:
        got += b"RESET"
    finally:
        await trio.aclose_forcefully(stream)
    return got


@pytest.mark.usefixtures("expected_errors")
@in_trio
async def test_an_upload_whose_generator_calls_exit_fails_its_fetch_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b"some"
        sys.exit("enough")

    async def answer(request: Any, env: Any, ctx: Any) -> Response:
        if request.url.path == "/exit":
            return await fetch(f"http://127.0.0.1:{port}/", method="POST", body=parts(), local=True)
        return Response("ok")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        async with interception([cls := handled_by(answer)]) as here:
            await here.started(cls)
            assert (await response_on(here.asks("default", path="/exit"))).startswith(b"HTTP/1.1 502")
            assert (await response_on(here.asks("default"))).startswith(b"HTTP/1.1 200")
        listener.accept()[0].close()


@pytest.mark.usefixtures("expected_errors")
@in_trio
async def test_a_task_of_a_handler_that_calls_exit_ends_its_request_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def leave() -> None:
        sys.exit("enough")

    async def answer(request: Any, env: Any, ctx: Any) -> Response:
        async with trio.open_nursery() as nursery:
            if request.url.path == "/exit":
                nursery.start_soon(leave)
                nursery.start_soon(trio.sleep_forever)
        return Response("ok")

    async with interception([cls := handled_by(answer)]) as here:
        await here.started(cls)
        assert (await response_on(here.asks("default", path="/exit"))).startswith(b"HTTP/1.1 500")
        assert "SystemExit: enough" in caplog.text
        assert (await response_on(here.asks("default"))).startswith(b"HTTP/1.1 200")


@pytest.mark.usefixtures("expected_errors")
@in_trio
async def test_a_failure_of_a_containers_own_tasks_ends_that_container_with_a_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail() -> None:
        raise ZeroDivisionError("in a task of ours")

    async with interception([cls := handled_by(Leaving(0))]) as here:
        other = await here.started(cls, "other")
        container = await here.started(cls, "one")
        (run,) = [run for run in here.interceptor.runs.values() if run.identity.name == "one"]
        run.client._nursery.start_soon(fail)
        with pytest.raises(RuntimeFailure, match="stop Handled 'one': in a task of ours"):
            await container.stop()
        assert "ZeroDivisionError: in a task of ours" in caplog.text
        assert container.has_ended
        assert not other.has_ended
        assert not (await here.started(cls, "one")).has_ended
