"""A value that handlers may use and nothing shows: not repr, not a log line, not a traceback."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn

from pyinterceptor.errors import PolicyError


class Secret:
    """`env.TOKEN.reveal()` is the text; `str`, `repr` and formatting show only where it came from.

    Log lines and tracebacks of the interceptor have it struck out wherever it stands, as in a header that a handler
    made of it. What a handler writes elsewhere is its own.
    """

    __slots__ = ("_origin", "_read")

    _read: Callable[[], str]
    _origin: str

    def __init__(self, value: str) -> None:
        if not isinstance(value, str) or not value:
            raise PolicyError("a Secret is a text that isn't empty")
        self._read, self._origin = lambda: value, "given"

    @classmethod
    def from_env(cls, variable: str) -> Secret:
        """The value of an environment variable, read when the interceptor opens: an app is imported without."""
        return cls._later(lambda: os.environ.get(variable, ""), f"environment variable {variable}")

    @classmethod
    def from_file(cls, path: str | Path) -> Secret:
        """What a file holds when the interceptor opens, without the line feed at its end."""
        return cls._later(lambda: Path(path).read_text().removesuffix("\n"), f"file {path}")

    @classmethod
    def _later(cls, read: Callable[[], str], origin: str) -> Secret:
        secret = cls.__new__(cls)
        secret._read, secret._origin = read, origin
        return secret

    def reveal(self) -> str:
        """The text."""
        return self._read()

    def configured(self, text: str) -> NoReturn:
        raise PolicyError("a secret isn't given by configuration, which others can read: set what its origin names")

    @asynccontextmanager
    async def open(self, name: str, state: Path) -> AsyncIterator[Secret]:
        """Reads it, once."""
        try:
            value = self._read()
        except (OSError, ValueError) as error:
            raise PolicyError(f"binding {name}: read the {self._origin}: {_said(error)}") from None
        if not value:
            raise PolicyError(f"binding {name}: the {self._origin} is not set or empty")
        yield self._later(lambda: value, self._origin)

    def __repr__(self) -> str:
        return f"<Secret, {self._origin}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret can't be pickled or copied")


def _said(error: Exception) -> str:
    """Without what was read."""
    return (error.strerror or "failed") if isinstance(error, OSError) else "not UTF-8"
