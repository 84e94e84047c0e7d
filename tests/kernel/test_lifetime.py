"""The lifetime of an interceptor: the exceptions that it raises, and the cleanup at its end."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from pyinterceptor import App, CaptureError, Container, PolicyError, Response, open_interceptor


class Box(Container):
    """A container without rules."""


APP = App(containers=[Box])


def test_what_the_users_own_code_raises_comes_out_as_it_is(instance: str) -> None:
    async def failing() -> None:
        async with open_interceptor(APP, instance=instance) as interceptor:
            await interceptor.get_container(Box)
            _ = 1 / 0

    async def main() -> None:
        with pytest.raises(ZeroDivisionError) as caught:
            await failing()
        assert caught.value.__cause__ is None
        async with open_interceptor(APP, instance=instance) as interceptor:
            assert (await (await interceptor.get_container(Box)).exec("echo again")).text == "again\n"

    trio.run(main)


def test_several_errors_of_the_users_own_stay_a_group(instance: str) -> None:
    async def fail(error: Exception) -> None:
        raise error

    async def failing() -> None:
        async with open_interceptor(APP, instance=instance), trio.open_nursery() as nursery:
            nursery.start_soon(fail, KeyError("one"))
            nursery.start_soon(fail, ValueError("two"))

    async def main() -> None:
        with pytest.raises(ExceptionGroup) as caught:
            await failing()
        assert caught.group_contains(KeyError)
        assert caught.group_contains(ValueError)

    trio.run(main)


def test_an_instance_that_runs_already_is_said_so_and_lives_on(instance: str) -> None:
    async def main() -> None:
        async with open_interceptor(APP, instance=instance) as first:
            with pytest.raises(CaptureError, match="is running already; choose another name"):
                async with open_interceptor(APP, instance=instance):
                    raise AssertionError("the second was opened")
            assert (await (await first.get_container(Box)).exec("echo alive")).text == "alive\n"

    trio.run(main)


def test_a_cancelled_interceptor_ends_its_containers(instance: str) -> None:
    async def main() -> None:
        with trio.move_on_after(5) as scope:
            async with open_interceptor(APP, instance=instance) as interceptor:
                box = await interceptor.get_container(Box)
                running = await box.start("sleep 1000")
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert await running.wait() == 128 + 9
        await running.aclose()

    trio.run(main)


def test_a_class_that_the_app_does_not_have_is_refused_by_name(instance: str) -> None:
    class Stranger(Container):
        pass

    async def main() -> None:
        async with open_interceptor(APP, instance=instance) as interceptor:
            with pytest.raises(PolicyError, match="Stranger is not a container of this app; it has: Box"):
                await interceptor.get_container(Stranger)
            with pytest.raises(KeyError, match="does not run"):
                interceptor.count(Box)

    trio.run(main)


def test_a_flow_that_is_still_with_its_handler_at_the_end_is_told_like_any_other(
    instance: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Slow(Container):
        pass

    @Slow.outbound_by_host("slow.test")
    async def never(request: Any, env: Any, ctx: Any) -> Response:
        await trio.sleep_forever()
        raise AssertionError

    async def main() -> None:
        async with open_interceptor(App(containers=[Slow]), instance=instance) as interceptor:
            box = await interceptor.get_container(Slow)
            assert (await box.exec("curl -s -m 0.5 http://slow.test/")).returncode == 28  # curl's timeout

    trio.run(main)
    assert [line.split()[:2] for line in caplog.messages] == [["HANDLE", "slow.test"]]
