"""The user's container class: decorating, assigning and inheriting handlers."""

import pytest

from pyinterceptor import App, Budget, Container, PolicyError, Response
from pyinterceptor.app.policy import policy_of


async def one(request, env, ctx):
    return Response("one")


async def two(request, env, ctx):
    return Response("two")


def test_decorating_and_assigning_are_equivalent():
    class Decorated(Container):
        pass

    class Assigned(Container):
        pass

    assert Decorated.outbound_by_host("my.kv", "*.internal")(one) is one
    assert Decorated.outbound(two) is two
    Assigned.outbound_by_host = {"my.kv": one, "*.internal": one}
    Assigned.outbound = two
    assert dict(Decorated.outbound_by_host) == dict(Assigned.outbound_by_host)
    assert Decorated.outbound.handler is Assigned.outbound.handler is two


def test_rules_can_stand_in_the_class_body():
    class Sandbox(Container):
        outbound_by_host = {"my.kv": one}
        outbound = two

    assert dict(Sandbox.outbound_by_host) == {"my.kv": one}
    assert Sandbox.outbound.handler is two


def test_subclasses_inherit_and_override_without_touching_their_base():
    class Base(Container):
        outbound_by_host = {"my.kv": one, "other": one}
        outbound = one

    class Sub(Base):
        pass

    Sub.outbound_by_host("my.kv")(two)
    Sub.outbound = None
    assert dict(Sub.outbound_by_host) == {"my.kv": two, "other": one}
    assert Sub.outbound.handler is None
    assert dict(Base.outbound_by_host) == {"my.kv": one, "other": one}
    assert Base.outbound.handler is one


@pytest.mark.parametrize("wrong", [{"my.kv": "not a function"}, ["my.kv"]])
def test_a_value_that_is_not_a_handler_is_refused_when_it_is_set(wrong):
    class Sandbox(Container):
        pass

    with pytest.raises(PolicyError):
        Sandbox.outbound_by_host = wrong


def test_an_app_refuses_two_classes_of_one_name():
    def make():
        class Sandbox(Container):
            pass

        return Sandbox

    with pytest.raises(PolicyError, match="two container classes are called Sandbox"):
        App(containers=[make(), make()])


def test_a_handler_that_uses_an_unknown_binding_is_refused_at_start():
    class Sandbox(Container):
        pass

    @Sandbox.outbound_by_host("my.kv")
    def handler(request, env, ctx):
        return Response(env.GREETNG)

    app = App(containers=[Sandbox], bindings={"GREETING": "hello"})
    with pytest.raises(PolicyError, match=r"my\.kv, line \d+: env has no 'GREETNG'.*did you mean env\.GREETING"):
        app.policy(Sandbox, 1)


def test_a_binding_has_a_name_that_env_can_have():
    class Sandbox(Container):
        pass

    with pytest.raises(PolicyError, match="'MY-KV' is none"):
        App(containers=[Sandbox], bindings={"MY-KV": 1})


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "many", None, True, 2**31])
def test_a_budget_that_is_not_a_count_is_refused_by_name(wrong):
    with pytest.raises(PolicyError, match="handlers must be a count"):
        Budget(handlers=wrong)


@pytest.mark.parametrize(
    ("setting", "wrong"),
    [
        ("enable_internet", "no"),
        ("enable_internet", 0),
        ("local_networks", "10.0.0.0/8"),
        ("local_networks", [10]),
        ("local_networks", 7),
        ("image", 7),
        ("image", ""),
        ("budget", 3),
        ("memory", "64M"),
        ("memory", 64),
        ("memory", True),
        ("pids", 0),
        ("pids", 1.5),
        ("cpu", 0),
        ("cpu", float("nan")),
        ("cpu", "1"),
        ("tmp", None),
        ("tmp", 0),
    ],
)
def test_a_setting_of_another_type_is_refused_by_its_name(setting, wrong):
    class Sandbox(Container):
        pass

    policy_of(Sandbox, 1)
    setattr(Sandbox, setting, wrong)
    with pytest.raises(PolicyError, match=f"{setting} must be"):
        policy_of(Sandbox, 1)


@pytest.mark.parametrize("wrong", [lambda: None, lambda request: None, lambda a, b, c, d: None])
def test_a_handler_that_cannot_be_called_with_its_three_arguments_is_refused(wrong):
    class Sandbox(Container):
        pass

    for right in (one, lambda request, env, ctx, more=None: None, lambda *arguments: None):
        Sandbox.outbound = right
    with pytest.raises(PolicyError, match=r"must take \(request, env, ctx\)"):
        Sandbox.outbound = wrong
