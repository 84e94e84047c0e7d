"""A handler's arguments, its place, and the sentences about its mistakes."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

import pytest
import trio

from pyinterceptor import PolicyError
from pyinterceptor.app.handler import check_handler, explain_asyncio, place_of, wrong_answer


async def plain(request: Any, env: Any, ctx: Any) -> Any:
    return None


def decorated(handler: Any) -> Any:
    @functools.wraps(handler)
    async def around(*arguments: Any) -> Any:
        return await handler(*arguments)

    return around


class Handlers:
    async def method(self, request: Any, env: Any, ctx: Any) -> Any:
        return None

    async def __call__(self, request: Any, env: Any, ctx: Any) -> Any:
        return None


def at(function: Any) -> str:
    return f"({__file__}:{function.__code__.co_firstlineno})"


@pytest.mark.parametrize(
    ("handler", "place"),
    [
        (plain, f"plain {at(plain)}"),
        (decorated(plain), f"plain {at(plain)}"),
        (functools.partial(plain), f"plain {at(plain)}"),
        (staticmethod(plain), f"plain {at(plain)}"),
        (Handlers().method, f"Handlers.method {at(Handlers.method)}"),
        (Handlers(), f"Handlers.__call__ {at(Handlers.__call__)}"),
        (print, "print"),
    ],
)
def test_a_handlers_place_is_its_name_with_file_and_line(handler: Any, place: str) -> None:
    assert place_of(handler) == place


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (7, r"outbound must be a function \(request, env, ctx\), not int"),
        (lambda request: None, r"outbound must take \(request, env, ctx\): too many positional arguments"),
        (lambda a, b, c, d: None, r"outbound must take \(request, env, ctx\): missing a required argument: 'd'"),
    ],
)
def test_a_handler_that_cannot_take_its_three_arguments_is_refused(wrong: Any, why: str) -> None:
    with pytest.raises(PolicyError, match=f"^{why}$"):
        check_handler(wrong, "outbound")
    for right in (plain, Handlers(), print, functools.partial(plain), lambda request, env, ctx, more=1: None):
        assert check_handler(right, "outbound") is right


async def made() -> None:
    """Never awaited. `wrong_answer` has to close it, or a warning would fail the test."""


@pytest.mark.parametrize(
    ("answer", "returned", "question"),
    [
        (None, "None", "is a `return` or an `await` missing?"),
        ("ok", "a str", "wrap it in Response(…), or is an `await` missing?"),
        ({}, "a dict", "wrap it in Response(…), or is an `await` missing?"),
    ],
)
def test_a_wrong_answer_is_named_with_the_handler_and_a_question(answer: object, returned: str, question: str) -> None:
    assert str(wrong_answer(plain, answer)) == f"plain {at(plain)} returned {returned}, not a Response; {question}"


def test_a_coroutine_as_answer_is_closed() -> None:
    answer = made()
    assert "returned a coroutine, not a Response; is an `await` missing?" in str(wrong_answer(plain, answer))
    assert answer.cr_frame is None


async def sleep() -> None:
    await asyncio.sleep(1)


async def sleep_not_at_all() -> None:
    await asyncio.sleep(0)


async def ask_for_the_loop() -> None:
    asyncio.get_running_loop()


async def wait_for_an_event() -> None:
    await asyncio.Event().wait()


class Loop(asyncio.AbstractEventLoop):
    """As much of a loop as a future needs."""

    def get_debug(self) -> bool:
        return False


def future() -> Any:
    return asyncio.Future(loop=Loop())


async def wait_for_a_future() -> None:
    await future()  # written in C, it leaves no frame of asyncio's in a traceback


@pytest.mark.parametrize("work", [sleep, sleep_not_at_all, ask_for_the_loop, wait_for_an_event, wait_for_a_future])
def test_an_error_of_asyncio_under_trio_is_explained_with_the_line(work: Any) -> None:
    with pytest.raises((RuntimeError, TypeError, AttributeError)) as caught:
        trio.run(work)
    explain_asyncio(caught.value, work)
    place = f"{work.__name__} ({__file__}:{work.__code__.co_firstlineno + 1})"
    remedy = "use trio.sleep() for asyncio.sleep(), a nursery for tasks"
    assert caught.value.__notes__ == [f"{place}: handlers run under Trio, not asyncio; {remedy}"]


def test_other_errors_are_left_as_they_are() -> None:
    with pytest.raises(RuntimeError) as caught:
        raise RuntimeError("the event loop of a washing machine")
    explain_asyncio(caught.value, plain)
    assert not hasattr(caught.value, "__notes__")
