"""Where a connection reports faults that its client can cause but that others must mend."""

from __future__ import annotations

import logging
from typing import Protocol

from pyinterceptor.web import Request

log = logging.getLogger("pyinterceptor")


class Faults(Protocol):
    """`what` failed by `error`, on behalf of `request` if that is known."""

    def info(self, what: str, error: BaseException, request: Request | None = None) -> None:
        """A peer's fault."""

    def warning(self, what: str, error: BaseException, request: Request | None = None) -> None:
        """A fault of something that the app uses."""

    def error(self, what: str, error: BaseException, request: Request | None = None) -> None:
        """A fault of the app or of ours: with its traceback."""


class Logged:
    """Faults on connections of no container."""

    def info(self, what: str, error: BaseException, request: Request | None = None) -> None:
        log.info("%s: %r", what, error)

    def warning(self, what: str, error: BaseException, request: Request | None = None) -> None:
        log.warning("%s: %r", what, error)

    def error(self, what: str, error: BaseException, request: Request | None = None) -> None:
        log.error("%s", what, exc_info=error)


LOGGED = Logged()
