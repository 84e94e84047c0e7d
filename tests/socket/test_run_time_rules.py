"""Rules that are set while a container runs: each request that begins after a call has returned obeys it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.testing

from pyinterceptor import Container, PolicyError, Response, Secret
from tests.socket.interception import Interception, interception
from tests.socket.passage import NAME
from tests.socket.test_runs import in_trio

CONNECTIONS = 200
SWAPS = 100
PATIENCE = 240.0  # seconds until a test counts as stuck


def sandbox() -> type[Container]:
    class Sandbox(Container):
        enable_internet = False

        def __init__(self, ctx: Any, env: Any) -> None:
            super().__init__(ctx, env)
            self._seen: list[Any] = []

        async def give_access(self, word: str) -> None:
            await self.set_outbound_by_host("my.kv", "say", {"word": word})

        async def remember(self, value: Any) -> list[Any]:
            self._seen.append(value)
            return self._seen

        async def fail(self) -> None:
            raise KeyError("no such thing")

    @Sandbox.outbound_handlers
    async def say(request: Any, env: Any, ctx: Any) -> Response:
        ctx.params["word"] += "!"  # a copy: the next request doesn't see it
        return Response(ctx.params["word"])

    @Sandbox.outbound_by_host("static.kv")
    async def static(request: Any, env: Any, ctx: Any) -> Response:
        return Response("static")

    return Sandbox


class Connection:
    """A keep-alive connection of the container."""

    def __init__(self, here: Interception, host: str = "my.kv") -> None:
        made = here.containers["one"].connect(here.capture.address)
        made.setblocking(False)
        self.stream = trio.SocketStream(trio.socket.from_stdlib_socket(made))
        self.request = f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()

    async def asks(self) -> tuple[int, str]:
        """Sends a request; returns the status and the body of its answer."""
        await self.stream.send_all(self.request)
        got = b""
        while b"\r\n\r\n" not in got:
            got += await self._some()
        head, _, body = got.partition(b"\r\n\r\n")
        (length,) = [int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        while len(body) < length:
            body += await self._some()
        return int(head.split()[1]), body.decode()

    async def _some(self) -> bytes:
        data = bytes(await self.stream.receive_some())
        assert data, "the connection was closed"
        return data


@in_trio
async def test_a_call_before_the_first_start_or_later_decides_the_next_request_on_an_open_connection() -> None:
    async with interception([cls := sandbox()]) as here:
        container = await here.interceptor.get_container(cls, "one")
        await container.set_outbound_by_host("my.kv", "say", {"word": "before"})
        await container.start()
        connection = Connection(here)
        assert await connection.asks() == (200, "before!")
        assert await connection.asks() == (200, "before!")
        await container.give_access("instance")
        assert await connection.asks() == (200, "instance!")
        await container.remove_outbound_by_host("my.kv")
        assert (await connection.asks())[0] == 520
        await container.set_outbound_handler("say", {"word": "all"})
        assert await connection.asks() == (200, "all!")
        static = Connection(here, "static.kv")
        assert await static.asks() == (200, "static")
        await container.set_outbound_by_hosts({"static.kv": ("say", {"word": "over"}), "x": ("say", {})})
        assert await static.asks() == (200, "over!")
        await container.remove_outbound_by_host("static.kv")
        assert await static.asks() == (200, "static")
        await container.reset_outbound()
        assert (await connection.asks())[0] == 520


@in_trio
async def test_a_rule_with_a_port_decides_only_at_the_port_that_is_dialled_and_a_network_by_the_address() -> None:
    async with interception([cls := sandbox()]) as here:
        container = await here.started(cls, "one")
        connection, port = Connection(here), here.capture.address[1]
        await container.set_outbound_by_host(f"my.kv:{port - 1}", "say", {"word": "another port"})
        await container.set_outbound_by_host("203.0.113.0/24", "say", {"word": "another network"})
        assert (await connection.asks())[0] == 520
        await container.set_outbound_by_host("127.0.0.0/8", "say", {"word": "network"})
        assert await connection.asks() == (200, "network!")
        await container.set_outbound_by_host("my.kv", "say", {"word": "name"})
        assert await connection.asks() == (200, "name!")
        await container.set_outbound_by_host(f"MY.kv:{port}", "say", {"word": "port"})
        assert await connection.asks() == (200, "port!")
        await container.remove_outbound_by_host(f"my.kv:{port}")
        assert await connection.asks() == (200, "name!")


@in_trio
async def test_rules_are_one_containers_own_and_stay_after_a_stop_and_when_the_classs_rules_are_replaced() -> None:
    async with interception([cls := sandbox()]) as here:
        other = here.interceptor.get_container(cls, "other")
        await other.set_outbound_by_host("my.kv", "say", {"word": "other"})
        container = await here.started(cls, "one")
        assert (await Connection(here).asks())[0] == 520
        await container.set_outbound_by_host("my.kv", "say", {"word": "mine"})
        await container.stop()
        await container.start()
        connection = Connection(here)
        assert await connection.asks() == (200, "mine!")
        cls.enable_internet = False
        cls.outbound_by_host = {}
        await here.interceptor.replace_policy(cls)
        assert await connection.asks() == (200, "mine!")
        assert (await Connection(here, "static.kv").asks())[0] == 520


@in_trio
async def test_a_wrong_call_names_its_fault_and_changes_nothing() -> None:
    async with interception([cls := sandbox()]) as here:
        container = await here.started(cls, "one")
        await container.set_outbound_by_host("my.kv", "say", {"word": "right"})
        connection = Connection(here)
        for call, said in (
            (lambda: container.set_outbound_by_host("my.kv", "nonesuch"), "unknown handler 'nonesuch'.*has: say"),
            (lambda: container.set_outbound_handler("nonesuch"), "unknown handler 'nonesuch'.*has: say"),
            (lambda: container.set_outbound_by_host("http://my.kv", "say"), "host pattern 'http://my.kv'"),
            (lambda: container.set_outbound_by_host("my.kv", "say", object()), "params can't be copied"),
            (lambda: container.set_outbound_by_host("my.kv", "say", [Secret("x")]), "params holds a Secret"),
            (lambda: container.set_outbound_by_hosts({"a": "say", "b": "nonesuch"}), "unknown handler 'nonesuch'"),
            (lambda: container.remove_outbound_by_host("a/b"), "host pattern 'a/b'"),
        ):
            with pytest.raises(PolicyError, match=said):
                await call()
            assert await connection.asks() == (200, "right!")


@in_trio
async def test_the_classs_methods_are_called_on_one_instance_with_copies() -> None:
    async with interception([cls := sandbox()]) as here:
        container = here.interceptor.get_container(cls, "one")
        value = {"list": [1]}
        seen = await container.remember(value)
        value["list"].append(2)
        seen.append("mine")
        assert await here.interceptor.get_container(cls, "one").remember(b"x") == [{"list": [1]}, b"x"]
        with pytest.raises(KeyError, match="no such thing"):
            await container.fail()
        with pytest.raises(PolicyError, match="Sandbox.remember: arguments can't be copied: it holds a object"):
            await container.remember(object())
        with pytest.raises(AttributeError, match="Sandbox has no method 'forget'; its methods: fail, give_access, rem"):
            container.forget()
        assert container.has_ended  # nothing was started


@in_trio
async def test_a_class_is_a_binding_that_gives_the_same_stub_by_name_and_id() -> None:
    class Reached(Container):
        enable_internet = False

        async def state(self, key: str) -> str:
            return f"{self.ctx.name} {key}"

    @Reached.outbound_by_host("get-state.do")
    async def get_state(request: Any, env: Any, ctx: Any) -> Response:
        stub = env.SANDBOX.get(env.SANDBOX.id_from_string(ctx.container_id))
        assert stub is env.SANDBOX.get_by_name("one") is await env.SANDBOX.get_by_name("one")
        return Response(await stub.state(request.url.path))

    async with interception([Reached], bindings={"SANDBOX": Reached}) as here:
        await here.started(Reached, "one")
        assert await Connection(here, "get-state.do").asks() == (200, "one /")
        sandboxes = here.interceptor.env.SANDBOX
        assert sandboxes.get(sandboxes.id_from_name("two")) is here.interceptor.get_container(Reached, "two")
        assert sandboxes.get(sandboxes.id_from_string(str(sandboxes.id_from_name("two")))).has_ended
        for wrong in ("", "abc", None, "G" * 64):
            with pytest.raises(PolicyError, match="64 hex digits"):
                sandboxes.id_from_string(wrong)
        with pytest.raises(PolicyError, match="no container of Reached has the id"):
            sandboxes.get(sandboxes.id_from_string("0" * 64))


@in_trio
async def test_hooks_are_called_at_each_start_and_stop_and_a_failing_start_leaves_nothing() -> None:
    calls: list[Any] = []

    class Hooked(Container):
        async def on_start(self) -> None:
            calls.append("start")
            if self.ctx.name == "bad":
                raise ValueError("not today")

        async def on_stop(self, exit_code: int) -> None:
            calls.append(exit_code)

    async with interception([Hooked]) as here:
        container = await here.started(Hooked, "one")
        await container.stop()
        await container.start()
        await container.stop()
        assert calls == ["start", 0, "start", 0]
        with pytest.raises(ValueError, match="not today"):
            await here.started(Hooked, "bad")
        assert here.interceptor.runs == {}


@in_trio
async def test_a_function_of_wait_until_goes_on_after_the_response_until_the_grace_ends() -> None:
    ends: list[str] = []
    went_on = trio.Event()

    async def work(name: str) -> None:
        try:
            await trio.sleep(3600 if name == "/" else 0)
            ends.append("done")
        except trio.Cancelled:
            ends.append("cancelled")
            raise
        finally:
            went_on.set()

    class Waiting(Container):
        enable_internet = False

    @Waiting.outbound
    async def answer(request: Any, env: Any, ctx: Any) -> Response:
        with pytest.raises(TypeError, match="takes an async function"):
            ctx.wait_until(None)
        ctx.wait_until(work, request.url.path)
        return Response(f"{ctx.destination[1]} {ctx.params}")

    async with interception([Waiting]) as here:
        container = await here.started(Waiting, "one")
        assert await Connection(here).asks() == (200, f"{here.capture.address[1]} None")
        assert ends == []
        await container.stop(grace=0)
        assert ends == ["cancelled"]


def test_busy_connections_see_every_swap_of_handlers_at_once_and_without_an_error() -> None:
    async def main() -> None:
        with trio.fail_after(PATIENCE):
            await swap_under_load()

    trio.run(main)


async def swap_under_load() -> None:
    async with interception([cls := sandbox()]) as here:
        container = await here.started(cls, "one")
        await container.set_outbound_handler("say", {"word": "0"})
        now, asked, wanted, is_reached = 0, 0, 0, trio.Event()

        async def ask(connection: Connection) -> None:
            nonlocal asked
            while now < SWAPS:
                oldest = now
                status, body = await connection.asks()
                assert status == 200
                assert oldest <= int(body[:-1]) <= now + 1
                asked += 1
                if asked == wanted:
                    is_reached.set()

        async with trio.open_nursery() as nursery:
            for _ in range(CONNECTIONS):
                nursery.start_soon(ask, Connection(here))
            for swap in range(1, SWAPS + 1):
                wanted, is_reached = asked + 10, trio.Event()
                await is_reached.wait()
                params = {"word": str(swap)}
                if swap % 2:
                    await container.set_outbound_by_host("my.kv", "say", params)
                else:
                    await container.set_outbound_handler("say", params)
                    await container.remove_outbound_by_host("my.kv")
                now = swap
        assert asked >= 10 * SWAPS


def test_busy_connections_see_every_swap_between_handlers_and_the_internet() -> None:
    async def main() -> None:
        with trio.fail_after(PATIENCE):
            await swap_with_the_internet()

    trio.run(main)


async def answer_as_origin(listening: Any, nursery: trio.Nursery) -> None:
    """Answers every request on every connection with "origin"."""
    listening.settimeout(None)
    listening.setblocking(False)

    async def serve(stream: trio.SocketStream) -> None:
        rest = b""
        with suppress(trio.BrokenResourceError):
            async with stream:
                while chunk := await stream.receive_some():
                    rest += bytes(chunk)
                    while b"\r\n\r\n" in rest:
                        rest = rest.partition(b"\r\n\r\n")[2]
                        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\norigin")

    accepting = trio.socket.from_stdlib_socket(listening)
    while True:
        made, _ = await accepting.accept()
        nursery.start_soon(serve, trio.SocketStream(made))


async def swap_with_the_internet() -> None:
    class Open(Container):
        local_networks = ["127.0.0.0/8"]

    @Open.outbound_handlers
    async def say(request: Any, env: Any, ctx: Any) -> Response:
        return Response(ctx.params)

    async with interception([Open]) as here, trio.open_nursery() as serving:
        container = await here.started(Open, "one")
        [number] = here.interceptor.runs
        with here.origin(number) as listening:
            serving.start_soon(answer_as_origin, listening, serving)
            now, asked, wanted, is_reached = 0, {"origin": 0, "handled": 0}, 0, trio.Event()

            def answer(swap: int) -> str:
                return f"{swap}" if swap % 2 else "origin"

            async def ask(connection: Connection) -> None:
                while now < SWAPS:
                    oldest = now
                    status, body = await connection.asks()
                    assert status == 200
                    assert body in {answer(swap) for swap in range(oldest, now + 2)}
                    asked["origin" if body == "origin" else "handled"] += 1
                    if sum(asked.values()) == wanted:
                        is_reached.set()

            async with trio.open_nursery() as nursery:
                for _ in range(CONNECTIONS):
                    nursery.start_soon(ask, Connection(here, NAME))
                for swap in range(1, SWAPS + 1):
                    wanted, is_reached = sum(asked.values()) + 10, trio.Event()
                    await is_reached.wait()
                    match swap % 4:
                        case 1:
                            await container.set_outbound_by_host(NAME, "say", str(swap))
                        case 2:
                            await container.remove_outbound_by_host(NAME)
                        case 3:
                            await container.set_outbound_handler("say", str(swap))
                        case _:
                            await container.remove_outbound_handler()
                    now = swap
            assert min(asked.values()) >= SWAPS
        serving.cancel_scope.cancel()
