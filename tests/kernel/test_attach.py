"""Network namespaces that somebody else made, attached to an interceptor, in a real gateway."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from pyinterceptor import App, CaptureError, Container, Response, RuntimeFailure, open_interceptor
from pyinterceptor.capture.gateway.gateway import LINK_NOTICES
from pyinterceptor.capture.gateway.netlink import links_gone, open_notices
from pyinterceptor.capture.gateway.state import state_of
from tests.kernel.container import BareContainer, in_trio, open_container
from tests.starting import started

ANYWHERE = "203.0.113.9"  # nobody is there: a handler answers


class Sandbox(Container):
    enable_internet = False


@Sandbox.outbound
async def answer(request: Any, env: Any, ctx: Any) -> Response:
    return Response(f"{ctx.container_name} asks {request.url.host}")


class Other(Container):
    enable_internet = False


@asynccontextmanager
async def opened(instance: str) -> AsyncIterator[Any]:
    with trio.fail_after(60):
        async with open_interceptor(App(containers=[Sandbox, Other]), instance=instance) as interceptor:
            yield interceptor


def ask(container: BareContainer, host: str = "my.kv") -> str:
    with container.connect(ANYWHERE, 80) as client:
        client.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        got = b""
        while data := client.recv(4096):
            got += data
    return got.partition(b"\r\n\r\n")[2].decode()


async def in_container(step: Callable[[], str]) -> str:
    return await trio.to_thread.run_sync(step)


def path_of(fd: int) -> str:
    return f"/proc/self/fd/{fd}"


@pytest.mark.parametrize("given", [int, path_of, lambda fd: Path(path_of(fd))])
@in_trio
async def test_an_attached_namespace_is_under_the_rules_until_it_is_detached(instance: str, given: Any) -> None:
    with open_container() as container:
        async with opened(instance) as interceptor:
            handle = await interceptor.attach(Sandbox, "one", given(container.fd))
            assert await in_container(lambda: ask(container)) == "one asks my.kv"
            assert interceptor.count(Sandbox, "one").accepted == 1
            assert not handle.has_ended
            await handle.stop()
            await handle.stop()
            assert handle.has_ended
            assert container.interfaces() == {"lo"}
            again = await interceptor.attach(Sandbox, "one", given(container.fd))
            assert await in_container(lambda: ask(container)) == "one asks my.kv"
            assert again is not handle
        assert container.interfaces() == {"lo"}


@in_trio
async def test_a_namespace_with_an_interface_that_is_up_is_refused_unless_it_may_be_replaced(instance: str) -> None:
    with open_container() as container:
        container.command("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "beside")
        async with opened(instance) as interceptor:
            container.command("ip", "link", "set", "eth0", "up")
            with pytest.raises(CaptureError, match="eth0 is up in it and could lead past us; replace_routes"):
                await interceptor.attach(Sandbox, "one", container.fd)
            assert container.interfaces() == {"lo", "eth0", "beside"}
            container.command("ip", "address", "add", "203.0.113.1/24", "dev", "eth0")  # with it, a route
            await interceptor.attach(Sandbox, "one", container.fd, replace_routes=True)
            assert container.interfaces() == {"lo", "eth0", "beside", "eth1"}
            assert "state DOWN" in container.command("ip", "link", "show", "eth0")
            assert "203.0.113.0/24" not in container.command("ip", "route")
            assert await in_container(lambda: ask(container)) == "one asks my.kv"


@pytest.mark.parametrize("route", ["blackhole 203.0.113.0/24", "unreachable 2001:db8::/32", "prohibit default table 7"])
@in_trio
async def test_a_namespace_with_a_route_is_refused_unless_it_may_be_replaced(instance: str, route: str) -> None:
    family = "-6" if "::" in route else "-4"
    with open_container() as container:
        container.command("ip", "link", "set", "lo", "up")
        container.command("ip", family, "route", "add", *route.split())
        async with opened(instance) as interceptor:
            with pytest.raises(CaptureError, match="it has 1 routes; replace_routes=True deletes them"):
                await interceptor.attach(Sandbox, "one", container.fd)
            await interceptor.attach(Sandbox, "one", container.fd, replace_routes=True)
            assert " ".join(route.split()[:2]) not in container.command("ip", family, "route", "show", "table", "all")
            assert await in_container(lambda: ask(container)) == "one asks my.kv"


@in_trio
async def test_a_namespace_or_a_name_can_be_attached_once(instance: str) -> None:
    with open_container() as container, open_container() as free:
        async with opened(instance) as interceptor:
            await interceptor.attach(Sandbox, "one", container.fd)
            with pytest.raises(CaptureError, match="as Sandbox 'two': it is attached as Sandbox 'one'"):
                await interceptor.attach(Sandbox, "two", container.fd, replace_routes=True)
            with pytest.raises(CaptureError, match="as Sandbox 'one': a container of this class and name runs"):
                await interceptor.attach(Sandbox, "one", free.fd)
            with pytest.raises(RuntimeFailure, match="start Sandbox 'one': it is attached to a foreign namespace"):
                await started(interceptor, Sandbox, "one")
            await interceptor.attach(Other, "one", free.fd)
            third = await started(interceptor, Sandbox, "three")
            network = Path(f"/proc/{third.pid}/ns/net")
            with pytest.raises(CaptureError, match="it is attached as Sandbox 'three'"):
                await interceptor.attach(Sandbox, "four", network, replace_routes=True)
            with pytest.raises(CaptureError, match="as Sandbox 'three': a container of this class and name runs"):
                await interceptor.attach(Sandbox, "three", free.fd)
            assert await in_container(lambda: ask(container)) == "one asks my.kv"
            assert (await third.exec("curl -s http://my.kv/")).text == "three asks my.kv"


@in_trio
async def test_the_hosts_namespace_the_gateways_and_no_namespace_at_all_are_refused(instance: str) -> None:
    async with opened(instance) as interceptor:
        before = socket.if_nameindex()
        gateway = state_of(instance).namespace
        for netns, why in (
            ("/proc/self/ns/net", "it is the host's own"),
            ("/proc/1/ns/net", "it is the host's own"),
            (gateway, "it is the gateway's own"),
            ("/proc/self/ns/pid", "the descriptor is not that of a network namespace"),
            ("/dev/null", "the descriptor is not that of a network namespace"),
            ("/nonesuch", "open /nonesuch: No such file or directory"),
        ):
            for replace_routes in (False, True):
                with pytest.raises(CaptureError, match=f"attach a namespace: {why}"):
                    await interceptor.attach(Sandbox, "one", netns, replace_routes=replace_routes)
        assert socket.if_nameindex() == before


@in_trio
async def test_the_container_ends_with_the_namespace_and_another_can_have_its_name(instance: str) -> None:
    async with opened(instance) as interceptor:
        with open_container() as container, open_container() as other:
            handle = await interceptor.attach(Sandbox, "one", container.fd)
            beside = await interceptor.attach(Sandbox, "two", other.fd)
            assert await in_container(lambda: ask(container)) == "one asks my.kv"
            os.dup2(other.fd, container.fd)  # the last that kept it alive
            with trio.fail_after(10):
                while not handle.has_ended:
                    await trio.lowlevel.checkpoint()
            await handle.stop()
            assert not beside.has_ended
            with open_container() as fresh:
                await interceptor.attach(Sandbox, "one", fresh.fd)
                assert await in_container(lambda: ask(fresh)) == "one asks my.kv"


def test_notices_that_were_lost_are_made_good_by_looking() -> None:
    with open_container() as container, container.run(lambda: open_notices(LINK_NOTICES)) as notices:
        notices.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        for index in (50, 60):
            link = ["add", f"v{index}", "index", str(index), "type", "veth", "peer", f"w{index}"]
            container.command("ip", "link", *link)
        for _ in range(20):
            container.command("ip", "link", "set", "v50", "alias", "x" * 200)
        container.command("ip", "link", "del", "v60")
        assert links_gone(notices, {50, 60}) == {60}
        assert links_gone(notices, {50, 60}) == set()  # nothing new was told
