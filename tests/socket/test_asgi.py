"""ASGI applications as handlers, under Trio and under asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import sniffio
import trio
import trio.lowlevel
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, StreamingResponse

from pyinterceptor import Container, PolicyError, asgi
from tests.socket.interception import Interception, interception
from tests.socket.test_runs import in_trio

LOOPS = pytest.mark.parametrize("loop", ["trio", "asyncio"])
ends: list[str] = []


@asynccontextmanager
async def lifespan(app: Any) -> AsyncIterator[dict[str, str]]:
    ends.append("begun")
    yield {"word": "from the lifespan"}
    ends.append("ended")


async def pause() -> None:
    if sniffio.current_async_library() == "asyncio":
        await asyncio.sleep(0)
    else:
        await trio.lowlevel.checkpoint()


application = FastAPI(lifespan=lifespan)


@application.post("/echo")
async def echo(request: Request) -> StreamingResponse:
    async def shouted() -> AsyncIterator[bytes]:
        async for chunk in request.stream():
            await pause()
            yield chunk.upper()

    return StreamingResponse(shouted(), headers={"x-library": sniffio.current_async_library()})


@application.get("/about")
async def about(request: Request, q: str = "") -> JSONResponse:
    given = request.scope["extensions"]["pyinterceptor"]
    return JSONResponse([q, request.state.word, given["env"].WORD, given["ctx"].container_name, request.url.hostname])


@application.get("/broken")
async def broken() -> None:
    raise ZeroDivisionError("in the application")


def sandbox(loop: Any) -> type[Container]:
    class Sandbox(Container):
        enable_internet = False

    Sandbox.outbound = asgi(application, loop=loop)
    return Sandbox


async def exchanged(here: Interception, request: bytes, end: bytes) -> bytes:
    """Sends bytes; returns the answer as far as `end`."""
    made = here.containers["one"].connect(here.capture.address)
    made.setblocking(False)
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(made))
    await stream.send_all(request)
    got = b""
    while end not in got:
        chunk = await stream.receive_some()
        assert chunk, got
        got += chunk
    return got


@LOOPS
def test_an_application_answers_with_its_lifespan_and_our_env(loop: str) -> None:
    @in_trio
    async def main() -> None:
        async with interception([cls := sandbox(loop)], bindings={"WORD": "bound"}) as here:
            await here.started(cls, "one")
            for _ in range(2):
                request = b"GET /about?q=a%20b HTTP/1.1\r\nHost: any.test\r\n\r\n"
                got = await exchanged(here, request, b"]")
                assert got.endswith(b'["a b","from the lifespan","bound","one","any.test"]')
            assert ends == ["begun"]

    ends.clear()
    main()
    assert ends == ["begun", "ended"]


@LOOPS
def test_bodies_are_streamed_both_ways(loop: str) -> None:
    @in_trio
    async def main() -> None:
        async with interception([cls := sandbox(loop)]) as here:
            await here.started(cls, "one")
            made = here.containers["one"].connect(here.capture.address)
            made.setblocking(False)
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(made))
            await stream.send_all(b"POST /echo HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n")
            got = b""
            for word in (b"one", b"two"):  # each is answered before the next is sent
                await stream.send_all(b"3\r\n" + word + b"\r\n")
                while word.upper() not in got:
                    chunk = await stream.receive_some()
                    assert chunk, got
                    got += chunk
            await stream.send_all(b"0\r\n\r\n")
            while not got.endswith(b"0\r\n\r\n"):
                chunk = await stream.receive_some()
                assert chunk, got
                got += chunk
            assert f"x-library: {loop}".encode() in got

    main()


@LOOPS
@pytest.mark.usefixtures("expected_errors")
def test_an_error_of_the_application_is_its_own_answer(loop: str) -> None:
    @in_trio
    async def main() -> None:
        async with interception([cls := sandbox(loop)]) as here:
            await here.started(cls, "one")
            got = await exchanged(here, b"GET /broken HTTP/1.1\r\nHost: a.test\r\n\r\n", b"\r\n\r\n")
            assert got.startswith(b"HTTP/1.1 500")
            assert b" 404 " in await exchanged(here, b"GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n", b"\r\n\r\n")

    main()


@pytest.mark.parametrize(("application", "loop", "said"), [(7, "trio", "not 7"), (application, "uv", "'uv'")])
def test_a_wrong_application_or_loop_is_refused(application: Any, loop: Any, said: str) -> None:
    with pytest.raises(PolicyError, match=said):
        asgi(application, loop)
