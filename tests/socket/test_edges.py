"""Wrong arguments of an open interceptor and its handles: each is refused in a sentence, and nothing has changed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pyinterceptor import CaptureError, Container, PolicyError, RequestRecord, Response
from pyinterceptor.serving.interceptor import Interceptor
from tests.socket.interception import interception
from tests.socket.loopback import in_trio


class Known(Container):
    enable_internet = False


class Other(Container):
    pass


async def answer(request: Any, env: Any, ctx: Any) -> Response:
    return Response("ok")


Known.outbound = answer
a_class: Any = "Known"
a_number: Any = 5
nothing: Any = None

WRONG: dict[str, tuple[Callable[[Interceptor], Awaitable[object]], type[Exception], str]] = {
    "a policy of another class": (lambda at: at.replace_policy(Other), PolicyError, "Other is not a container of this"),
    "a policy of a name": (lambda at: at.replace_policy(a_class), PolicyError, "'Known' is not a container class"),
    "a container called 5": (lambda at: at.get_container(Known, a_number), PolicyError, "non-empty str, not 5"),
    "a container without a name": (lambda at: at.get_container(Known, ""), PolicyError, "non-empty str, not ''"),
    "no namespace": (lambda at: at.attach(Known, "one", nothing), CaptureError, "path or an open descriptor, not None"),
}


@pytest.mark.parametrize("name", WRONG)
@in_trio
async def test_a_wrong_argument_of_the_interceptor_is_refused_in_a_sentence(name: str) -> None:
    call, error, sentence = WRONG[name]
    async with interception([Known]) as here:
        with pytest.raises(error, match=sentence):
            await call(here.interceptor)


@pytest.mark.parametrize(("grace", "error"), [("5", TypeError), (None, TypeError), (True, TypeError), (-1, ValueError)])
@in_trio
async def test_a_grace_that_is_no_time_is_refused_and_the_container_goes_on(grace: Any, error: type[Exception]) -> None:
    async with interception([Known]) as here:
        container = await here.started(Known)
        with pytest.raises(error, match="grace"):
            await container.stop(grace=grace)
        assert not container.has_ended
        await container.stop(grace=0)


@in_trio
async def test_records_of_no_type_in_particular_are_all_records() -> None:
    async with interception([Known]) as here:
        await here.started(Known)
        async with here.interceptor.records() as records:
            here.asks("default")
            async for record in records:
                if isinstance(record, RequestRecord):
                    break
        assert record.status == 200


@in_trio
async def test_records_of_another_type_are_refused_in_a_sentence() -> None:
    async with interception([Known]) as here:
        with pytest.raises(TypeError, match=r"takes record types, not .*str.*; they are FlowRecord, RequestRecord"):
            async with here.interceptor.records(str):  # type: ignore[type-var]
                raise AssertionError("it subscribed")
