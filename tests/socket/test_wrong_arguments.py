"""A wrong argument of an interceptor's method is refused in a sentence, and changes nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pyinterceptor import CaptureError, Container, PolicyError
from tests.socket.interception import interception
from tests.socket.loopback import in_trio


class Sandbox(Container):
    """A container without rules."""


NO_NAME = "a container's name is a non-empty str, not {wrong!r}"


@in_trio
async def test_a_wrong_class_or_name_is_refused_by_every_method() -> None:
    async with interception([Sandbox]) as here:
        interceptor: Any = here.interceptor
        for call in (interceptor.get_container, interceptor.count, interceptor.count_queries):
            for wrong in ("Sandbox", 5, object):
                with pytest.raises(PolicyError, match="is not a container"):
                    call(wrong)
            for wrong in (5, None, ["one"], ""):
                with pytest.raises(PolicyError, match=f"^{re.escape(NO_NAME.format(wrong=wrong))}$"):
                    call(Sandbox, wrong)
        with pytest.raises(PolicyError, match="is not a container class"):
            await interceptor.replace_policy("Sandbox")
        with pytest.raises(KeyError, match="does not run"):
            interceptor.count(Sandbox)
        assert not here.containers
        await interceptor.get_container(Sandbox).start()
        assert interceptor.count(Sandbox).flows == 0
        assert interceptor.count_queries(Sandbox)


@pytest.mark.parametrize(
    ("argument", "wrong"),
    [("user", 5), ("user", ""), ("workdir", 5), ("workdir", b"/srv"), ("workdir", ""), ("files", {"show": ()})],
)
@in_trio
async def test_a_wrong_argument_of_get_container_is_refused_by_its_name(argument: str, wrong: Any) -> None:
    async with interception([Sandbox]) as here:
        sentence = rf"^get_container\({argument}=…\) takes .*, or None, not {re.escape(repr(wrong))}$"
        with pytest.raises(PolicyError, match=sentence):
            here.interceptor.get_container(Sandbox, **{argument: wrong})
        here.interceptor.get_container(Sandbox, workdir=Path("/"))


@pytest.mark.parametrize("wrong", [-1, 1_000_000, 2**40, "\0", "/nowhere/at/all", None, 1.5, b"/proc/self/ns/net"])
@in_trio
async def test_a_wrong_namespace_is_refused_in_a_sentence(wrong: Any) -> None:
    async with interception([Sandbox]) as here:
        with pytest.raises(CaptureError, match="^attach a namespace: "):
            await here.interceptor.attach(Sandbox, "one", wrong)
        await here.interceptor.attach(Sandbox, "one", "/proc/self/ns/net")


@in_trio
async def test_a_wrong_argument_of_a_command_is_refused_before_it_starts() -> None:
    async with interception([Sandbox]) as here:
        container: Any = here.interceptor.get_container(Sandbox)
        for call, arguments, sentence in (
            (container.start, {"user": 5}, r"start\(user=…\) takes .*, or None, not 5"),
            (container.start, {"workdir": 5}, r"start\(workdir=…\) takes .*, or None, not 5"),
            (container.exec, {"input": "text"}, "a command's input is bytes, not 'text'"),
            (container.exec, {"env": {"A": 1}}, "a command's env maps names to texts"),
            (container.start, {"env": {"A=": "1"}}, "a command's env maps names to texts"),
            (container.run_inherited, {"env": 5}, "a command's env maps names to texts"),
            (container.start, {"stdin": "file"}, "a command's stdin is a file, .*, not 'file'"),
            (container.start, {"stderr": 1.5}, "a command's stderr is a file, .*, not 1.5"),
        ):
            with pytest.raises((PolicyError, TypeError, ValueError), match=sentence):
                await call("true", **arguments)
        for call in (container.exec, container.start, container.run_inherited):
            with pytest.raises(TypeError, match="a command is a str or a sequence of str, not 5"):
                await call(5)
        assert not here.containers
        with pytest.raises(NotImplementedError):  # the test's runtime got the command
            await container.start("true", env={"A": "1"})
