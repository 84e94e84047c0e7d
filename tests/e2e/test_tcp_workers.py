"""Real clients of other protocols than HTTP, whose connections a worker takes as streams."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import trio

from pyinterceptor import App, Container, Response, WorkerEntrypoint, open_interceptor
from pyinterceptor.runtime import Files
from tests.bindings.redis_servers import RedisServer
from tests.world import World

PACKAGES = Path(sys.prefix)
SMTP = """
import smtplib
with smtplib.SMTP("mail.test", 25, timeout=30) as server:
    server.sendmail("me@test", ["you@test"], "Subject: hello\\r\\n\\r\\ntext")
print("sent")
"""


class Mail(WorkerEntrypoint):
    """Speaks first, as SMTP does (RFC 5321)."""

    async def connect(self, stream: Any) -> None:
        received, is_data = b"", False
        await stream.send_all(f"220 {stream.host}\r\n".encode())
        while chunk := await stream.receive_some():
            received += bytes(chunk)
            while b"\r\n" in received:
                line, _, received = received.partition(b"\r\n")
                if is_data and line != b".":
                    self.ctx.props.append(line.decode())
                    continue
                is_data = line.upper() == b"DATA"
                code = b"354" if is_data else b"221" if line.upper() == b"QUIT" else b"250"
                await stream.send_all(code + b" fine\r\n")


class Forward(WorkerEntrypoint):
    """Forwards to a server on the host."""

    async def connect(self, stream: Any) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", self.ctx.props) as server, trio.open_nursery() as nursery:
            nursery.start_soon(copy, stream, server)
            await copy(server, stream)
            nursery.cancel_scope.cancel()


async def copy(source: Any, sink: Any) -> None:
    while chunk := await source.receive_some():
        await sink.send_all(chunk)
    await sink.send_eof()


class Sandbox(Container):
    enable_internet = False

    async def intercept(self, port: int) -> None:
        exports, container = self.ctx.exports, self.ctx.container
        self._mail = exports.Mail(props=[])
        await container.intercept_outbound_tcp("mail.test", self._mail)
        await container.intercept_outbound_tcp("redis.test", exports.Forward(props=port))

    async def mails(self) -> list[str]:
        return list(self._mail.ctx.props)


@Sandbox.outbound_by_host("my.kv")
async def answer(request: Any, env: Any, ctx: Any) -> Response:
    return Response("handled")


def test_smtp_and_redis_clients_are_served_by_workers(world: World, instance: str, tmp_path: Path) -> None:
    async def main(port: int) -> None:
        app = App(containers=[Sandbox], exports=[Mail, Forward])
        with trio.fail_after(120):
            async with open_interceptor(app, instance=instance) as interceptor:
                container = interceptor.get_container(Sandbox, "one", files=Files(show=(PACKAGES,)))
                await container.intercept(port)
                sent = await container.exec([sys.executable, "-c", SMTP])
                assert (sent.stdout, sent.stderr) == (b"sent\n", b"")
                assert "Subject: hello" in await container.mails()
                asked = await container.exec("redis-cli -h redis.test SET key value")
                assert (asked.stdout, asked.stderr) == (b"OK\n", b"")
                assert (await container.exec("redis-cli -h redis.test GET key")).stdout == b"value\n"
                assert (await container.exec("curl -s -m 20 http://my.kv/")).text == "handled"

    with RedisServer(tmp_path) as server:
        trio.run(main, server.port)
