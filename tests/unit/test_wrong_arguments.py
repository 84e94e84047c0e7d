"""A wrong argument of a public call is an error that names the call, the argument and the value."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import trio

from pyinterceptor import (
    KV,
    App,
    Container,
    Options,
    PolicyError,
    Quota,
    R2Bucket,
    RuledNames,
    Secret,
    open_interceptor,
)
from pyinterceptor.dns.names import Networks
from pyinterceptor.runtime.files import Files
from pyinterceptor.runtime.process import check_environment, split


def refusal(call: str, argument: str, value: object) -> str:
    """Returns a pattern of the error's sentence."""
    return rf"^{call}\({argument}=…\) takes .*, not {re.escape(repr(value))}$"


V4, V6 = ipaddress.IPv4Network("198.18.0.0/15"), ipaddress.IPv6Network("fd00::/64")


class Sandbox(Container):
    """A container without rules."""


def test_every_option_of_the_relay_is_checked() -> None:
    for field in fields(Options):
        is_text = field.type == "str"
        right: list[Any] = ["LOCK", "LOCK, ACL"] if is_text else [0, 3]
        wrong: list[Any] = [3, "LOCK ACL", "é", "A" * 300, b"A"] if is_text else ["x", -1, None, True, float("nan")]
        if field.type == "int":
            wrong += [1.5, 2**32]
        for value in right:
            Options(**{field.name: value})
        for value in wrong:
            with pytest.raises(PolicyError, match=refusal("Options", field.name, value)):
                Options(**{field.name: value})


def test_every_option_of_ruled_names_is_checked() -> None:
    for field in fields(RuledNames):
        RuledNames(**{field.name: 3})
        for value in ("x", 0, -1, None, True, float("nan")):
            with pytest.raises(PolicyError, match=refusal("RuledNames", field.name, value)):
                RuledNames(**{field.name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("argument", "wrong"),
    [
        *(("instance", wrong) for wrong in (5, None, "", "a b", "../up")),
        *(("nameservers", wrong) for wrong in ("192.0.2.1", 5, [5], [None])),
        *(("synthetic", wrong) for wrong in ("198.18.0.0/15", None, (V4, V6))),
        *(("settings", wrong) for wrong in ("KV", ["KV"], {"KV": 1}, {1: "redis://"})),
        *(("state", wrong) for wrong in (5, Path("state"))),
        *(("options", wrong) for wrong in ({"threads": 1}, 5, Options)),
        *(("dns_cache", wrong) for wrong in ("1M", -1, None, 1.5, True)),
        *(("nat64", wrong) for wrong in ("64:ff9b::/96", 5, None, [5])),
        *(("ruled", wrong) for wrong in ({"at_once": 1}, 5, RuledNames)),
        *(("dns_rate", wrong) for wrong in ("x", 0, None, 2**31)),
        *(("fetch_head", wrong) for wrong in ("300K", 0, None, 1.5)),
    ],
)
def test_a_wrong_argument_of_open_interceptor_is_refused_before_anything_is_opened(argument: str, wrong: Any) -> None:
    async def main() -> None:
        async with open_interceptor(App(containers=[Sandbox]), **{argument: wrong}):
            raise AssertionError("it opened")

    with pytest.raises(PolicyError, match=refusal("open_interceptor", argument, wrong)):
        trio.run(main)


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: Networks("198.18.0.0/15", V6), r"Networks\(v4=…\)"),  # type: ignore[arg-type]
        (lambda: Networks(V6, V4), r"Networks\(v4=…\)"),  # type: ignore[arg-type]
        (lambda: Networks(V4, None), r"Networks\(v6=…\)"),  # type: ignore[arg-type]
        (lambda: Files(workdir="/srv"), r"Files\(workdir=…\)"),  # type: ignore[arg-type]
        (lambda: Files(workdir=Path("srv")), r"Files\(workdir=…\)"),
        (lambda: Files(home=5), r"Files\(home=…\)"),  # type: ignore[arg-type]
        (lambda: Files(show="/srv"), r"Files\(show=…\)"),  # type: ignore[arg-type]
        (lambda: Files(writable=(5,)), r"Files\(writable=…\)"),  # type: ignore[arg-type]
        (lambda: Files(guarded=None), r"Files\(guarded=…\)"),  # type: ignore[arg-type]
        (lambda: KV(5), r"KV\(url=…\)"),  # type: ignore[arg-type]
        (lambda: KV(quota=5), r"KV\(quota=…\)"),  # type: ignore[arg-type]
        (lambda: R2Bucket(5), r"R2Bucket\(url=…\)"),  # type: ignore[arg-type]
        (lambda: R2Bucket(per_container=5), r"R2Bucket\(per_container=…\)"),  # type: ignore[arg-type]
        (lambda: R2Bucket(uploads_kept=-1), r"R2Bucket\(uploads_kept=…\)"),
        (lambda: Secret.from_env(5), r"Secret.from_env\(variable=…\)"),  # type: ignore[arg-type]
        (lambda: Secret.from_file(5), r"Secret.from_file\(path=…\)"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_argument_of_a_declaration_is_refused_by_its_name(make: Callable[[], Any], argument: str) -> None:
    KV(quota=Quota(5), per_container=Quota(1)), R2Bucket(quota=Quota(5), uploads_kept=5)
    Networks(V4, V6), Files(workdir=Path("/srv"), show=(Path("/opt"),)), Secret.from_env("HOME"), Secret.from_file("/a")
    with pytest.raises(PolicyError, match=f"^{argument} takes .*, not "):
        make()


@pytest.mark.parametrize("wrong", ["a=b", ["A=1"], {"A": 1}, {1: "a"}, {"A=B": "c"}, {"A": "\0"}, {"": "a"}, 5])
def test_an_environment_that_no_process_can_have_is_refused(wrong: Any) -> None:
    check_environment(None)
    check_environment({"A": "1", "B": ""})
    with pytest.raises((TypeError, ValueError), match="a command's env maps names to texts"):
        check_environment(wrong)


def test_a_word_with_a_nul_is_refused() -> None:
    assert split(["a", "b\n"]) == ["a", "b\n"]
    with pytest.raises(ValueError, match=r"a command's words can't contain a NUL: 'b\\x00'"):
        split(["a", "b\0"])


@pytest.mark.parametrize("wrong", [5, None, ("my.kv",)])
def test_a_host_pattern_that_is_not_text_is_refused(wrong: Any) -> None:
    def handler(request: Any, env: Any, ctx: Any) -> Any: ...

    class Other(Container):
        outbound_by_host = {"my.kv": handler}

    with pytest.raises(PolicyError, match="^Other.outbound_by_host must map host patterns, which are str, not "):
        Other.outbound_by_host = {wrong: handler}
