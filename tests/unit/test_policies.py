"""A decision's generation leads to its policy after others have replaced that."""

from pyinterceptor._relay import lib

from pyinterceptor.app.container import Container
from pyinterceptor.app.policies import KEPT, Policies
from pyinterceptor.app.policy import policy_of
from pyinterceptor.web import Response


async def one(request, env, ctx):
    return Response("one")


async def other(request, env, ctx):
    return Response("other")


class Sandbox(Container):
    pass


def policy(generation, **hosts):
    Sandbox.outbound_by_host = {f"{name}.kv": handler for name, handler in hosts.items()}
    return policy_of(Sandbox, generation)


def test_a_decision_finds_the_names_and_handlers_of_the_policy_that_made_it():
    policies = Policies(policy(1, a=one, b=other))
    decision = policies.now.decide(lib.PROTOCOL_HTTP, "b.kv", None)
    assert policies.replace(policy(2, c=one, d=one))
    made_by = policies.of(decision.generation)
    assert made_by is not None
    assert (made_by.rule_name(decision.rule), made_by.targets[decision.target].handler) == ("b.kv", other)
    assert policies.now.rule_name(decision.rule) == "d.kv"
    assert made_by.stages[decision.stage] == "outbound_by_host"


def test_a_policy_that_was_read_earlier_does_not_replace_a_later_one():
    policies = Policies(policy(7, a=one))
    late = policies.now
    assert not policies.replace(policy(6, b=one))
    assert not policies.replace(policy(7, c=one))
    assert policies.now is late
    assert policies.of(6) is None


def test_the_oldest_policies_are_forgotten():
    policies = Policies(policy(1))
    for generation in range(2, KEPT + 3):
        policies.replace(policy(generation))
    kept = [generation for generation in range(KEPT + 5) if policies.of(generation)]
    assert kept == list(range(3, KEPT + 3))


def test_a_class_with_a_rule_for_the_unspecified_address_catches_no_name():
    Sandbox.outbound_by_host = {"0.0.0.0": one, "my.kv": one}
    read = policy_of(Sandbox, 1)
    assert read.decide_name("www.example.test") == lib.VERDICT_SPLICE
    assert read.decide_name("my.kv") == lib.VERDICT_HANDLE
