"""Header fields: names are case-insensitive, may have several values, and hold no byte that could end a line.

Pure. RFC 9110 section 5.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from multidict import CIMultiDict

TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
FORBIDDEN = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]|[^\x00-\xff]")

OF_CONNECTION = frozenset({"connection", "upgrade"})  # a handler may look at them

Source = Mapping[str, str] | Iterable[tuple[str, str]]


class Headers:
    """Fields in the order in which they came. `headers["name"]` joins several values of a name with a comma.

    Made from a mapping, from pairs, or from other Headers, which are copied: `Headers({"etag": '"1"'})`.

    Raises ValueError for a name that is not a token, or a value with a control byte or a character beyond Latin-1;
    TypeError for a name or value that is not a str.
    """

    __slots__ = ("_fields",)

    def __init__(self, fields: Source | Headers | None = None) -> None:
        self._fields: CIMultiDict[str] = CIMultiDict()
        if isinstance(fields, Headers):
            self._fields.extend(fields._fields)
        elif fields is not None:
            for name, value in fields.items() if isinstance(fields, Mapping) else _pairs(fields):
                self.append(name, value)

    @classmethod
    def parsed(cls, fields: Sequence[tuple[str, str]]) -> Headers:
        """Makes headers of fields that a strict parser has read; they aren't checked again."""
        headers = cls.__new__(cls)
        headers._fields = CIMultiDict(fields)
        return headers

    @classmethod
    def read(cls, lines: str) -> Headers:
        """Makes headers of the lines of a container's head, which a strict parser has checked.

        Fields that its Connection names are left out: they are for this connection alone (RFC 9110 section 7.6.1).
        """
        headers = cls.__new__(cls)
        headers._fields = CIMultiDict()
        for line in lines.split("\r\n"):
            name, colon, value = line.partition(":")
            if colon:
                headers._fields.add(name, value.strip(" \t"))
        if "connection" in headers._fields:
            for name in connection_options(headers._fields.items()) - OF_CONNECTION:
                headers._fields.popall(name, None)
        return headers

    def get(self, name: str, default: str | None = None) -> str | None:
        """Returns the values of the name, joined with a comma; `default` if there is none."""
        values = self.getall(name)
        return ", ".join(values) if values else default

    def getall(self, name: str) -> list[str]:
        """Returns a list of the values of the name."""
        _check_name(name)
        return list(self._fields.getall(name, ()))

    def set(self, name: str, value: str) -> None:
        """Replaces every value of the name."""
        _check(name, value)
        self._fields[name] = value.strip(" \t")

    def append(self, name: str, value: str) -> None:
        """Adds a value to those of the name."""
        _check(name, value)
        self._fields.add(name, value.strip(" \t"))

    def delete(self, name: str) -> None:
        """Removes every value of the name, if it has any."""
        _check_name(name)
        self._fields.popall(name, None)

    def items(self) -> Iterator[tuple[str, str]]:
        """Iterates over all fields, each with its name as it came."""
        return iter(self._fields.items())

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def __setitem__(self, name: str, value: str) -> None:
        self.set(name, value)

    def __delitem__(self, name: str) -> None:
        self.delete(name)

    def __contains__(self, name: object) -> bool:
        return name in self._fields

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Headers) and self._fields == other._fields

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Headers({list(self._fields.items())!r})"


def connection_options(fields: Iterable[tuple[str, str]]) -> set[str]:
    """Returns the options of all Connection fields, in lower case."""
    values = (value for name, value in fields if name.lower() == "connection")
    return {option.strip().lower() for value in values for option in value.split(",")} - {""}


def _pairs(fields: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(fields, str | bytes) or not isinstance(fields, Iterable):
        raise TypeError(f"headers are a mapping or pairs of name and value, not {fields!r}")
    for pair in fields:
        if not (isinstance(pair, Sequence) and len(pair) == 2 and not isinstance(pair, str | bytes)):
            raise TypeError(f"headers are pairs of name and value; {pair!r} is not a pair")
        yield pair[0], pair[1]


def _check_name(name: Any) -> None:
    if not isinstance(name, str):
        raise TypeError(f"a header field's name must be str, not {type(name).__name__}: {name!r}")


def _check(name: Any, value: Any) -> None:
    _check_name(name)
    if not TOKEN.fullmatch(name):
        raise ValueError(f"{name!r} is not a header field's name")
    if not isinstance(value, str):
        raise TypeError(f"the value of {name} must be str, not {type(value).__name__}: {value!r}")
    if FORBIDDEN.search(value):
        raise ValueError(f"the value of {name} has a byte that no header field may have: {value!r}")
