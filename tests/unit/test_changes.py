"""Rules that calls set on one container: what each call gives, and where it stands in the order of decision."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from pyinterceptor._relay import lib

from pyinterceptor import Container, PolicyError, Response
from pyinterceptor.app.changes import Changes, changes_of, text_of
from pyinterceptor.app.entrypoint import Fetching, fetching
from pyinterceptor.app.names import BUILT_INS
from pyinterceptor.app.policy import Overrides, Policy, changing, policy_of
from pyinterceptor.policy.addresses import Address
from pyinterceptor.policy.pieces import at_once
from pyinterceptor.serving.handle import ContainerHandle

KNOWN = {"a", "b"}


def named(name: str) -> Any:
    async def handler(request: Any, env: Any, ctx: Any) -> Response:
        return Response(name)

    handler.__name__ = name
    return handler


def answering(name: str) -> Fetching:
    made = fetching(SimpleNamespace(fetch=lambda request: Response(name)))
    made.__name__ = name  # type: ignore[attr-defined]
    return made


def sandbox(**rules: Any) -> type[Container]:
    class Sandbox(Container):
        enable_internet = False
        outbound_handlers = {"a": named("a"), "b": named("b")}

    for name, value in rules.items():
        setattr(Sandbox, name, value)
    return Sandbox


def answer(policy: Policy, host: str, destination: tuple[Address, int] | None = None) -> tuple[int, str, str]:
    """Returns the verdict, the handler's name, and the rule."""
    made = policy.decide(lib.PROTOCOL_HTTP, host, destination)
    target = policy.targets[made.target].handler.__name__ if made.target != lib.NO_TARGET else ""
    return made.verdict, target, policy.rule_name(made.rule)


def changed(cls: type[Container], changes: Changes, overrides: Overrides | None = None) -> Policy:
    return at_once(changing(policy_of(cls, 1), changes, overrides or Overrides(), 2))


HANDLE, REFUSE, SPLICE = lib.VERDICT_HANDLE, lib.VERDICT_REFUSE, lib.VERDICT_SPLICE


def test_rules_of_calls_come_before_those_of_the_class_and_by_host_before_any_catch_all() -> None:
    cls = sandbox(outbound_by_host={"my.kv": named("static"), "other": named("static")}, outbound=named("rest"))
    all_ = Changes().with_handler("b", None, KNOWN)
    both = all_.with_host("MY.kv.", "a", None, KNOWN)
    assert answer(changed(cls, Changes()), "my.kv") == (HANDLE, "static", "my.kv")
    assert answer(changed(cls, both), "my.kv") == (HANDLE, "a", "my.kv")
    assert answer(changed(cls, both), "other") == (HANDLE, "static", "other")
    assert answer(changed(cls, both), "third") == (HANDLE, "b", "*")
    assert answer(changed(cls, both.without_handler()), "third") == (HANDLE, "rest", "*")
    assert answer(changed(cls, both.without_host("my.KV")), "my.kv") == (HANDLE, "static", "my.kv")


def test_intercepts_come_first_in_order_of_registration_and_the_one_for_everything_last() -> None:
    cls = sandbox(outbound_by_host={"my.kv": named("static")})
    rows = [(None, answering("all")), ("*.kv", answering("glob")), ("my.kv", answering("exact"))]
    policy = changed(cls, Changes().with_host("my.kv", "a", None, KNOWN), Overrides(rows))
    assert answer(policy, "my.kv") == (HANDLE, "glob", "*.kv")
    assert answer(policy, "elsewhere") == (HANDLE, "all", "*")


def test_an_override_of_the_internet_decides_for_the_rest() -> None:
    assert answer(changed(sandbox(), Changes(), Overrides(internet=True)), "x")[0] == SPLICE
    assert answer(changed(sandbox(enable_internet=True), Changes(), Overrides(internet=False)), "x")[0] == REFUSE


def test_a_handler_that_is_gone_refuses_its_host_and_never_falls_through() -> None:
    cls = sandbox(enable_internet=True, outbound=named("rest"), outbound_handlers={"b": named("b")})
    changes = Changes().with_host("my.kv", "a", None, KNOWN)
    assert answer(changed(cls, changes), "my.kv") == (REFUSE, "", "my.kv")
    assert answer(changed(cls, changes), "other")[:2] == (HANDLE, "rest")
    assert answer(changed(cls, Changes().with_handler("a", None, KNOWN)), "other") == (REFUSE, "", "*")


def test_all_hosts_are_checked_before_any_is_replaced() -> None:
    before = Changes().with_host("my.kv", "a", None, KNOWN)
    after = before.with_hosts({"other": "b", "*.third": ("a", {"n": 1})}, KNOWN)
    assert {host: one.name for host, one in after.by_host.items()} == {"other": "b", "*.third": "a"}
    for wrong in ({"other": "b", "x": "c"}, {"http://x/": "a"}, {"x": "a", "X.": "b"}, {"x": ("a", object())}, ["x"]):
        with pytest.raises(PolicyError):
            before.with_hosts(wrong, KNOWN)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["c", "", None, 7, ["a"]])
def test_an_unknown_handler_is_an_error_that_lists_the_known_ones(name: Any) -> None:
    with pytest.raises(PolicyError, match=r"unknown handler .*; outbound_handlers has: a, b$"):
        Changes().with_host("my.kv", name, None, KNOWN)
    with pytest.raises(PolicyError, match=r"unknown handler .*; outbound_handlers has: none$"):
        Changes().with_handler(name, None, ())


def test_rules_are_the_same_after_they_were_written() -> None:
    changes = Changes().with_host("b.kv", "a", {"n": {1}}, KNOWN).with_host("a.kv", "b", b"x", KNOWN)
    for one in (Changes(), changes, changes.with_handler("a", [None], KNOWN)):
        assert changes_of(text_of(one)) == one
    assert list(changes_of(text_of(changes)).by_host) == ["b.kv", "a.kv"]


def test_named_handlers_are_decorated_assigned_and_inherited() -> None:
    cls = sandbox()

    class Sub(cls):  # type: ignore[misc, valid-type]
        pass

    @Sub.outbound_handlers
    async def c(request: Any, env: Any, ctx: Any) -> Response:
        return Response()

    assert (set(cls.outbound_handlers), set(Sub.outbound_handlers)) == ({"a", "b"}, {"a", "b", "c"})
    for wrong in (["a"], {"a": 7}, {"": named("a")}, {5: named("a")}):
        with pytest.raises(PolicyError):
            cls.outbound_handlers = wrong


@pytest.mark.parametrize("name", sorted(BUILT_INS))
def test_a_method_with_a_built_ins_name_is_an_error_when_the_class_is_made(name: str) -> None:
    async def own(self: Any) -> None: ...

    with pytest.raises(PolicyError, match=f"^{name}: a method that every container has"):
        type(Container)("Sandbox", (Container,), {name: own})
    with pytest.raises(PolicyError, match=f"^{name}: a method that every container has"):
        type(Container)("Sandbox", (type("Mixin", (), {name: own}), Container), {})
    with pytest.raises(PolicyError, match=f"^{name}: a method that every container has"):
        setattr(sandbox(), name, own)


def test_the_built_ins_are_all_methods_of_a_stub() -> None:
    public = {name for name in dir(ContainerHandle) if not name.startswith("_")}
    assert public == BUILT_INS
