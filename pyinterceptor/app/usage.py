"""Finds the bindings that a handler uses before it runs, so that a misspelt one is an error at start.

It reads the bytecode for `env.NAME`, in the handler and in functions inside it. It does not read a function that a
handler passes `env` to, nor names that `getattr` looks up; a misspelt one there is an error when it is used.
"""

from __future__ import annotations

import dis
import inspect
from collections.abc import Callable, Collection, Iterator
from difflib import get_close_matches
from types import CodeType
from typing import Any

from pyinterceptor.bindings.env import known
from pyinterceptor.errors import PolicyError

LOADS = {"LOAD_FAST", "LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FAST_CHECK", "LOAD_FAST_BORROW"}
READS = {"LOAD_ATTR", "LOAD_METHOD"}


def check_bindings(handler: Callable[..., Any], where: str, bindings: Collection[str]) -> None:
    """Raises PolicyError if the handler reads a name in `env` that isn't one of `bindings`; `where` is its rule."""
    for name, line in bindings_used(handler):
        if name not in bindings and not hasattr(object, name):
            close = get_close_matches(name, bindings, 1)
            hint = f"; did you mean env.{close[0]}?" if close else ""
            raise PolicyError(f"{where}, line {line}: env has no {name!r}; {known(bindings)}{hint}")


def bindings_used(handler: Callable[..., Any]) -> Iterator[tuple[str, int]]:
    """Yields names and lines; nothing for a handler without Python code, such as a builtin."""
    function = inspect.unwrap(handler)
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None)
    if isinstance(code, CodeType):
        is_bound = inspect.ismethod(inspect.unwrap(handler))
        parameters = code.co_varnames[: code.co_argcount][is_bound:]
        if len(parameters) > 1:
            yield from _attributes(code, parameters[1])


def _attributes(code: CodeType, variable: str) -> Iterator[tuple[str, int]]:
    """Yields the attributes that this code and the functions inside it read from a variable."""
    if _is_assigned(code, variable):
        return
    line, is_loaded = code.co_firstlineno, False
    for step in dis.get_instructions(code):
        line = step.positions.lineno if step.positions and step.positions.lineno else line
        if is_loaded and step.opname in READS:
            yield step.argval, line
        is_loaded = step.opname in LOADS and step.argval == variable
    for inner in code.co_consts:
        if isinstance(inner, CodeType) and variable in inner.co_freevars:
            yield from _attributes(inner, variable)


def _is_assigned(code: CodeType, variable: str) -> bool:
    """Whether this code assigns the variable."""
    return any(step.opname.startswith("STORE_") and step.argval == variable for step in dis.get_instructions(code))
