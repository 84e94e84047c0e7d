"""The names in a container class: an unknown one is refused when the class is made or the name is assigned."""

import pytest

from pyinterceptor import Container, PolicyError, Response
from pyinterceptor.app.names import distance
from pyinterceptor.app.policy import policy_of


async def one(request, env, ctx):
    return Response("one")


async def two(request, env, ctx):
    return Response("two")


MISSPELT = {
    "enable_internett": "enable_internet",
    "enableInternet": "enable_internet",
    "ENABLE_INTERNET": "enable_internet",
    "enable_intrenet": "enable_internet",
    "outboundByHost": "outbound_by_host",
    "outbound_by_hosts": "outbound_by_host",
    "outbund": "outbound",
    "local_network": "local_networks",
    "bugdet": "budget",
    "imag": "image",
}
NOT_BUILT = ["allowed_hosts", "denied_hosts", "intercept_https", "passthrough_hosts", "refused"]


def in_body(name, value):
    type(Container)("Sandbox", (Container,), {name: value})


def annotated_in_body(name, value):
    type(Container)("Sandbox", (Container,), {name: value, "__annotations__": {name: "object"}})


def annotated_alone(name, value):
    type(Container)("Sandbox", (Container,), {"__annotations__": {name: "object"}})


def assigned_later(name, value):
    class Sandbox(Container):
        pass

    setattr(Sandbox, name, value)


def in_a_subclass(name, value):
    class Sandbox(Container):
        pass

    type("Sub", (Sandbox,), {name: value})


def in_a_mixin(name, value):
    type(Container)("Sandbox", (type("Mixin", (), {name: value}), Container), {})


def in_a_mixins_base(name, value):
    base = type("Base", (), {name: value})
    type(Container)("Sandbox", (type("Mixin", (base,), {}), Container), {})


def by_a_descriptor_that_names_itself(name, value):
    class Setter:
        def __get__(self, instance, owner):
            return self

        def __set_name__(self, owner, its_name):
            setattr(owner, name, value)

    type(Container)("Sandbox", (Container,), {"something": Setter()})


def when_it_is_subclassed(name, value):
    class Base(Container):
        def __init_subclass__(cls):
            setattr(cls, name, value)

    type(Container)("Sandbox", (Base,), {})


def on_an_instance(name, value):
    class Sandbox(Container):
        pass

    setattr(object.__new__(Sandbox), name, value)


WAYS = [in_body, annotated_in_body, annotated_alone, assigned_later, in_a_subclass, in_a_mixin, in_a_mixins_base]
WAYS += [by_a_descriptor_that_names_itself, when_it_is_subclassed, on_an_instance]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", MISSPELT)
def test_a_misspelt_setting_is_refused_with_the_one_that_was_meant(way, name):
    with pytest.raises(PolicyError, match=rf"^{name}: unknown attribute of \w+.*; did you mean {MISSPELT[name]}\?"):
        way(name, False)


def test_the_sentence_of_a_misspelt_setting_names_attribute_class_and_remedy():
    with pytest.raises(PolicyError) as caught:

        class Sandbox(Container):
            enable_internett = False

    assert str(caught.value) == "enable_internett: unknown attribute of Sandbox; did you mean enable_internet?"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NOT_BUILT)
def test_a_setting_that_is_not_built_is_refused_in_every_way(way, name):
    with pytest.raises(PolicyError, match=rf"^{name}: not built yet: this version doesn't have {name}; remove it from"):
        way(name, ["my.kv"])


@pytest.mark.parametrize("way", WAYS)
def test_a_name_near_one_that_is_not_built_is_refused_too(way):
    with pytest.raises(PolicyError, match=r"^allowedHosts: .* did you mean allowed_hosts\? It is not built yet"):
        way("allowedHosts", ["my.kv"])


@pytest.mark.parametrize("way", [in_body, assigned_later, in_a_subclass, in_a_mixin, in_a_mixins_base])
def test_a_public_value_without_annotation_is_refused_with_the_nearest_setting(way):
    with pytest.raises(PolicyError, match=r"^internet: unknown attribute of .*did you mean enable_internet\?"):
        way("internet", False)
    with pytest.raises(PolicyError, match=r"^retries: unknown .*its settings are budget,.*: retries: int = …$"):
        way("retries", 3)


@pytest.mark.parametrize("value", [None, 3, "text", [1], {"a": 1}, object()])
def test_any_public_value_needs_an_annotation(value):
    with pytest.raises(PolicyError, match=r"An attribute of your own needs an annotation: retries: \w+ = …"):
        in_body("retries", value)
    annotated_in_body("retries", value)


@pytest.mark.parametrize("way", [in_body, annotated_in_body, assigned_later, in_a_subclass, in_a_mixin])
@pytest.mark.parametrize(
    ("name", "meant"),
    [("cpus", "cpu"), ("cup", "cpu"), ("CPU", "cpu"), ("pidz", "pids"), ("tmpp", "tmp"), ("temp", "tmp")],
)
def test_a_value_one_edit_from_a_short_setting_is_refused_annotated_or_not(way, name, meant):
    with pytest.raises(PolicyError, match=rf"^{name}: unknown attribute of \w+.*; did you mean {meant}\?"):
        way(name, 5)


def test_a_member_one_edit_from_a_short_setting_is_allowed():
    class Sandbox(Container):
        cup: int  # without a value

        def temp(self):
            return 1

        @property
        def ids(self):
            return 2

    assert Sandbox.temp(None) == 1


def test_methods_near_a_setting_are_refused():
    with pytest.raises(PolicyError, match=r"^images: unknown attribute of Sandbox; did you mean image\?"):

        class Sandbox(Container):
            async def images(self):
                pass


def test_members_of_the_users_own_are_allowed():
    class Counting:
        counter: int = 0
        _private = 1

        async def helper(self):
            return self.counter

    class Sandbox(Counting, Container):
        """With a docstring."""

        enable_internet = False
        total: int = 0
        later: list[str]
        _cache = {}

        def __repr__(self):
            return "Sandbox"

        async def inbound(self):
            return 1

        @property
        def allowance(self):
            return 2

        @classmethod
        def made(cls):
            return cls

        @staticmethod
        def fixed():
            return 3

        class Inner:
            anything = 1

    class Sub(Sandbox):
        total = 5  # annotated in its base

    Sub.total, Sub.later, Sub.counter, Sub._other = 6, ["x"], 7, 8
    Sub.helper = Sandbox.inbound
    instance = object.__new__(Sub)
    instance.anything_of_its_own = 1
    assert (Sub.total, Sandbox.total, instance.anything_of_its_own) == (6, 0, 1)
    policy_of(Sub, 1)


def test_a_setting_that_is_annotated_but_not_set_is_refused():
    with pytest.raises(PolicyError, match=r"^enable_internet: annotated in Sandbox but not set; write"):

        class Sandbox(Container):
            enable_internet: False

    class Annotated(Container):
        enable_internet: bool = False
        outbound_by_host: dict = {"my.kv": one}
        outbound: object = two

    assert Annotated.outbound.handler is two


def test_a_setting_of_an_instance_is_refused_as_it_would_have_no_effect():
    class Sandbox(Container):
        pass

    with pytest.raises(PolicyError, match=r"without effect on an instance; set Sandbox\.enable_internet"):
        object.__new__(Sandbox).enable_internet = False


def test_the_settings_of_a_mixin_have_effect():
    class Closed:
        enable_internet = False
        outbound_by_host = {"my.kv": one}

        @staticmethod
        async def outbound(request, env, ctx):
            return Response("mixed in")

    class Sandbox(Closed, Container):
        outbound_by_host = {"other": two}

    assert Sandbox.enable_internet is False
    assert dict(Sandbox.outbound_by_host) == {"my.kv": one, "other": two}
    assert Sandbox.outbound.handler is vars(Closed)["outbound"]
    policy_of(Sandbox, 1)


@pytest.mark.parametrize(("name", "value"), [("enable_internet", False), ("outbound", one), ("outbound_by_host", {})])
def test_a_setting_of_a_mixin_that_container_hides_is_refused(name, value):
    mixin = type("Closed", (), {name: value})
    with pytest.raises(PolicyError, match=rf"^{name}: without effect in Closed.*; list Closed before it"):
        type(Container)("Sandbox", (Container, mixin), {})


@pytest.mark.parametrize(("name", "value"), [("outbound", 7), ("outbound_by_host", ["my.kv"])])
def test_a_mixins_handlers_are_checked_when_the_class_is_made(name, value):
    with pytest.raises(PolicyError, match=f"{name} must"):
        in_a_mixin(name, value)


def test_an_assignment_while_a_class_is_made_is_kept():
    class Base(Container):
        def __init_subclass__(cls):
            cls.outbound = one
            cls.outbound_by_host("my.kv")(two)

    class Sandbox(Base):
        pass

    assert Sandbox.outbound.handler is one
    assert dict(Sandbox.outbound_by_host) == {"my.kv": two}


@pytest.mark.parametrize(
    ("one", "other", "edits"),
    [
        ("", "", 0),
        ("", "abc", 3),
        ("abc", "", 3),
        ("abc", "abc", 0),
        ("abc", "abd", 1),
        ("abc", "ab", 1),
        ("abc", "xabc", 1),
        ("abc", "acb", 1),
        ("abcd", "badc", 2),
        ("ca", "abc", 3),
        ("inbound", "outbound", 3),
    ],
)
def test_distance_counts_edits_with_an_exchange_of_neighbours_as_one(one, other, edits):
    assert distance(one, other) == distance(other, one) == edits
