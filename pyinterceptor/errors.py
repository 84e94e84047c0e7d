"""Errors, named by what dies of them."""


class InterceptorError(Exception):
    """All of ours. The message names the step and the thing it failed on."""


def ungrouped(error: BaseException) -> BaseException:
    """The one exception that nurseries have wrapped, however often; the group itself if it holds several."""
    inner = error
    while isinstance(inner, BaseExceptionGroup):
        if len(inner.exceptions) > 1:
            return error
        inner = inner.exceptions[0]
    return inner


class CaptureError(InterceptorError):
    """The kernel refused something that capture needs: the process ends."""


class PeerError(InterceptorError):
    """The other end broke its protocol: one flow ends.

    `status` is the HTTP status to answer with where HTTP is spoken (RFC 9110 section 15).
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class PolicyError(InterceptorError):
    """The app's rules are wrong: raised where they are read."""


class DialRefused(InterceptorError):
    """The dial guard refused an address that a handler or a container wanted to reach."""


class FetchError(InterceptorError):
    """A fetch failed on its way: no address, no connection, no valid or whole response."""


class BindingError(InterceptorError):
    """A handler's resource could not do what it was asked: it is down, too slow, or full. What it holds is unchanged,
    as far as the engine's module says.

    `status` is what a handler may answer with: 503 unreachable, 504 too slow, 507 no space.
    """

    def __init__(self, message: str, status: int = 503) -> None:
        super().__init__(message)
        self.status = status


class BadArgument(BindingError, ValueError):
    """A resource was asked what it never could do: a key too long, a range past the end. `status` is of the 4xx."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message, status)


class RuntimeFailure(InterceptorError):
    """A workload could not be started, entered or stopped."""
