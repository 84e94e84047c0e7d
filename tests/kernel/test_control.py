"""A container that its instance starts with an entrypoint: its end is the container's."""

from __future__ import annotations

import signal
from typing import Any

import pytest
import trio

from pyinterceptor import App, Container, RuntimeFailure, open_interceptor

codes: list[int] = []


class Sandbox(Container):
    async def begin(self, entrypoint: Any, env: Any) -> None:
        await self.ctx.container.start(entrypoint=entrypoint, env=env)

    async def watch(self) -> None:
        await self.ctx.container.monitor()

    async def send(self, number: int) -> None:
        self.ctx.container.signal(number)

    async def run(self, argv: list[str]) -> str:
        return str((await self.ctx.container.exec(argv)).text)

    async def on_stop(self, exit_code: int) -> None:
        codes.append(exit_code)


def test_an_entrypoints_end_is_the_containers_with_its_exit_code(instance: str) -> None:
    async def main() -> None:
        with trio.fail_after(120):
            async with open_interceptor(App(containers=[Sandbox]), instance=instance) as interceptor:
                container = interceptor.get_container(Sandbox, "one")
                await container.begin(["sh", "-c", "exit $CODE"], {"CODE": "3"})
                with pytest.raises(RuntimeFailure, match="Sandbox 'one': it ended with exit code 3"):
                    await container.watch()
                assert codes == [3]
                await container.begin("sleep 1000", None)
                assert await container.run(["echo", "inside"]) == "inside\n"
                async with trio.open_nursery() as nursery:

                    async def watch() -> None:
                        with pytest.raises(RuntimeFailure, match=f"exit code {128 + signal.SIGUSR1}"):
                            await container.watch()

                    nursery.start_soon(watch)
                    await container.send(int(signal.SIGUSR1))
                assert codes == [3, 128 + signal.SIGUSR1]
                with pytest.raises(RuntimeFailure, match="nonesuch"):
                    await container.begin(["nonesuch"], None)
                assert container.has_ended
                await container.begin("sleep 1000", None)
                await container.stop()
                assert codes[-1] == 0

    codes.clear()
    trio.run(main)
