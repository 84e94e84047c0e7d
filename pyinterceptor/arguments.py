"""Checks of the arguments that a program passes: each error names the call, the argument and its value.

Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pyinterceptor.errors import PolicyError

Values = tuple[Callable[[Any], bool], str]  # a test of a value, and the words for the values that pass it
Allowed = Mapping[str, Values]  # by the argument's name


def check(is_right: bool, call: str, argument: str, wanted: str, value: object) -> None:
    """Raises PolicyError if the argument is not right. `wanted` names the values that are."""
    if not is_right:
        raise PolicyError(f"{call}({argument}=…) takes {wanted}, not {value!r}")


def check_each(call: str, allowed: Allowed, **values: object) -> None:
    """Checks the call's arguments, each by its allowed values. Raises PolicyError for the first that is not right."""
    for argument, value in values.items():
        is_right, wanted = allowed[argument]
        check(is_right(value), call, argument, wanted, value)


def optional(values: Values) -> Values:
    """Returns these values and None."""
    is_right, wanted = values
    return lambda value: value is None or is_right(value), f"{wanted}, or None"


def instances(cls: type, wanted: str) -> Values:
    """Returns the objects of a class."""
    return lambda value: isinstance(value, cls), wanted


def is_count(value: object, least: int = 0) -> bool:
    """Whether this is an int from `least` on that C's counts can hold."""
    return type(value) is int and least <= value < 2**31


def is_seconds(value: object) -> bool:
    """Whether this is a number of seconds from 0 on; NaN is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def is_text(value: object) -> bool:
    """Whether this is a str that is not empty and can be passed to the kernel, which ends a text at a NUL."""
    return isinstance(value, str) and value != "" and "\0" not in value


def is_path(value: object) -> bool:
    """Whether this is a path: text, or an object such as pathlib's."""
    return is_text(value.__fspath__() if hasattr(value, "__fspath__") else value)


def is_texts(value: object) -> bool:
    """Whether this is a sequence of str. A str is a sequence of its letters, and never meant as one."""
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(text, str) for text in value)


def is_text_map(value: object) -> bool:
    """Whether this maps str to str."""
    return isinstance(value, Mapping) and all(isinstance(text, str) for pair in value.items() for text in pair)
