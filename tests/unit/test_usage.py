"""The bindings that a handler uses, read from its bytecode."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from pyinterceptor import PolicyError
from pyinterceptor.app.usage import bindings_used, check_bindings


async def plain(request: Any, env: Any, ctx: Any) -> Any:
    value = await env.KV.get(request.url.path)
    return value or env.GREETING


async def in_functions_inside(request: Any, e: Any, ctx: Any) -> Any:
    async def later() -> Any:
        return [key async for key in e.BUCKET.list()]

    return later, lambda: e.TOKEN.reveal()


async def of_something_else(request: Any, env: Any, ctx: Any) -> Any:
    other = request
    return other.KW, ctx.KW, getattr(env, "KW", None)


async def assigned(request: Any, env: Any, ctx: Any) -> Any:
    env = ctx.app
    return env.KW


def decorated(handler: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(handler)
    async def around(*arguments: Any) -> Any:
        return await handler(*arguments)

    return around


class Handlers:
    async def method(self, request: Any, env: Any, ctx: Any) -> Any:
        return env.KV


@pytest.mark.parametrize(
    ("handler", "names"),
    [
        (plain, ["KV", "GREETING"]),
        (in_functions_inside, ["BUCKET", "TOKEN"]),
        (of_something_else, []),
        (assigned, []),
        (decorated(plain), ["KV", "GREETING"]),
        (Handlers().method, ["KV"]),
        (print, []),
    ],
)
def test_the_names_in_env_are_found_in_the_code(handler: Callable[..., Any], names: list[str]) -> None:
    assert [name for name, _ in bindings_used(handler)] == names


def test_a_misspelt_name_is_reported_with_its_line_and_the_known_names() -> None:
    line = plain.__code__.co_firstlineno + 1
    with pytest.raises(PolicyError) as caught:
        check_bindings(plain, "my.kv", ["KVS", "GREETING"])
    said = f"my.kv, line {line}: env has no 'KV'; the app's bindings: GREETING, KVS; did you mean env.KVS?"
    assert str(caught.value) == said
    check_bindings(plain, "my.kv", ["KV", "GREETING"])
