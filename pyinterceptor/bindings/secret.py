"""Secret: a value that handlers can read, but that appears in no repr, log line or traceback."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn

from pyinterceptor.arguments import check, is_path, is_text
from pyinterceptor.errors import PolicyError


class Secret:
    """A secret text. `env.TOKEN.reveal()` returns it; `str`, `repr` and formatting show only its origin.

    In the interceptor's log lines and tracebacks the text is replaced wherever it appears, such as in a header that a
    handler built from it. Output that a handler writes elsewhere is not filtered.
    """

    __slots__ = ("_origin", "_read")

    _read: Callable[[], str]
    _origin: str

    def __init__(self, value: str) -> None:
        if not isinstance(value, str) or not value:
            raise PolicyError("a Secret must be a non-empty str")
        self._read, self._origin = lambda: value, "given"

    @classmethod
    def from_env(cls, variable: str) -> Secret:
        """The value of an environment variable. It is read when the interceptor opens, so importing the app doesn't
        need it."""
        check(is_text(variable), "Secret.from_env", "variable", "a name", variable)
        return cls._later(lambda: os.environ.get(variable, ""), f"environment variable {variable}")

    @classmethod
    def from_file(cls, path: str | Path) -> Secret:
        """The content of a file, without a line feed at its end. It is read when the interceptor opens."""
        check(is_path(path), "Secret.from_file", "path", "a path", path)
        return cls._later(lambda: Path(path).read_text().removesuffix("\n"), f"file {path}")

    @classmethod
    def _later(cls, read: Callable[[], str], origin: str) -> Secret:
        secret = cls.__new__(cls)
        secret._read, secret._origin = read, origin
        return secret

    def reveal(self) -> str:
        """Returns the text."""
        return self._read()

    def configured(self, text: str) -> NoReturn:
        """Raises PolicyError: a command line is no place for a secret."""
        raise PolicyError("a Secret can't be configured: configuration is not secret; set its variable or file")

    @asynccontextmanager
    async def open(self, name: str, state: Path) -> AsyncIterator[Secret]:
        """Reads the text, once."""
        try:
            value = self._read()
        except (OSError, ValueError) as error:
            raise PolicyError(f"binding {name}: can't read the {self._origin}: {_said(error)}") from None
        if not value:
            raise PolicyError(f"binding {name}: the {self._origin} is unset or empty")
        yield self._later(lambda: value, self._origin)

    def __repr__(self) -> str:
        return f"<Secret, {self._origin}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret can't be pickled or copied")


def _said(error: Exception) -> str:
    """Returns the error's reason without the content that was read: a UnicodeDecodeError would show it."""
    return (error.strerror or "failed") if isinstance(error, OSError) else "not UTF-8"
