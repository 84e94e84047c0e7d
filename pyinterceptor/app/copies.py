"""Copies values that pass between objects: the values of JSON, bytes, datetimes and sets.

Pure. `text_of` writes them as JSON: a value that JSON doesn't have is an object with the one key `$` and its type.
"""

from __future__ import annotations

import base64
import datetime
import json
import math
from typing import Any

from pyinterceptor.bindings.secret import Secret
from pyinterceptor.errors import PolicyError
from pyinterceptor.web import Request, Response

PLAIN = (str, bool, int, float, type(None))
DATES: dict[str, Any] = {"datetime": datetime.datetime, "date": datetime.date, "time": datetime.time}
DEPTH = 100  # levels of nesting
TAG = "$"


def text_of(value: Any, where: str) -> str:
    """Returns the value as text. Raises PolicyError, which names `where`, if the value can't be copied."""
    return json.dumps(_tagged(value, where, 0), separators=(",", ":"))


def value_of(text: str) -> Any:
    """Returns a new value for a text of `text_of`."""
    return _untagged(json.loads(text))


def _tagged(value: Any, where: str, depth: int) -> Any:
    if depth > DEPTH:
        raise PolicyError(f"{where} is nested more than {DEPTH} levels deep, or holds itself")
    kind = type(value)
    if kind in PLAIN:
        return _number(value) if kind is float else value
    if kind in (list, tuple, set, frozenset):
        items = [_tagged(item, where, depth + 1) for item in value]
        return items if kind is list else {TAG: kind.__name__, "items": items}
    if kind is dict:
        pairs = [(_key(name, where), _tagged(item, f"{where}[{name!r}]", depth + 1)) for name, item in value.items()]
        return {TAG: "dict", "items": dict(pairs)} if TAG in value else dict(pairs)
    if kind in (bytes, bytearray):
        return {TAG: kind.__name__, "items": base64.b64encode(value).decode()}
    if kind.__name__ in DATES and kind is DATES[kind.__name__]:
        return {TAG: kind.__name__, "items": value.isoformat()}
    if isinstance(value, Secret):
        raise PolicyError(f"{where} holds a Secret; pass its binding's name, and let the handler read it in env")
    raise PolicyError(f"{where} can't be copied: it holds a {kind.__name__}; use JSON values, bytes, datetimes or sets")


def _key(name: Any, where: str) -> str:
    if type(name) is not str:
        raise PolicyError(f"{where} can't be copied: its key {name!r} is no str")
    return name


def _number(value: float) -> Any:
    return value if math.isfinite(value) else {TAG: "float", "items": repr(value)}


def _untagged(value: Any) -> Any:
    if isinstance(value, list):
        return [_untagged(item) for item in value]
    if not isinstance(value, dict):
        return value
    if TAG not in value:
        return {name: _untagged(item) for name, item in value.items()}
    kind, items = value[TAG], value["items"]
    match kind:
        case "dict":
            return {name: _untagged(item) for name, item in items.items()}
        case "bytes" | "bytearray":
            content = base64.b64decode(items)
            return content if kind == "bytes" else bytearray(content)
        case "float":
            return float(items)
        case "tuple" | "set" | "frozenset":
            return {"tuple": tuple, "set": set, "frozenset": frozenset}[kind](_untagged(item) for item in items)
        case _:
            return DATES[kind].fromisoformat(items)


def copy_of(value: Any, where: str) -> Any:
    """Returns a copy of an argument or result of a call between objects.

    Requests, responses and streams are passed on as they are, since one reader alone can have them. Raises PolicyError,
    which names `where`, if the value can't be copied.
    """
    return _copied(value, where, 0)


def _copied(value: Any, where: str, depth: int) -> Any:
    kind = type(value)
    if depth <= DEPTH and kind in (list, tuple, set, frozenset):
        return kind(_copied(item, where, depth + 1) for item in value)
    if depth <= DEPTH and kind is dict:
        return {_key(name, where): _copied(item, f"{where}[{name!r}]", depth + 1) for name, item in value.items()}
    if isinstance(value, Request | Response) or hasattr(kind, "__aiter__"):
        return value
    return _untagged(_tagged(value, where, depth))
