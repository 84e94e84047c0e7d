"""The exceptions of this package. A class tells the scope of a failure: a call, a flow, a container, the process."""


class InterceptorError(Exception):
    """The base class of our exceptions. The message names the step that failed, and the object it failed on."""


def ungrouped(error: BaseException) -> BaseException:
    """Returns the exception inside nested groups of one; the outermost group if it contains several exceptions."""
    inner = error
    while isinstance(inner, BaseExceptionGroup):
        if len(inner.exceptions) > 1:
            return error
        inner = inner.exceptions[0]
    return inner


class CaptureError(InterceptorError):
    """The kernel refused a call that capture needs. The process ends."""


class PeerError(InterceptorError):
    """The peer violated its protocol. One flow ends.

    `status` is the HTTP status for the answer, if the peer speaks HTTP (RFC 9110 section 15).
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class PolicyError(InterceptorError):
    """The app's rules or declarations are wrong. Raised where they are read."""


class DialRefused(InterceptorError):
    """The dial guard refused an address that a handler or a container wanted to reach."""


class OtherRule(DialRefused):
    """Every address of a host is under another rule than the container's request for that host."""


class FetchError(InterceptorError):
    """A fetch failed: it found no address, got no connection, or got no valid and complete response."""


class BindingError(InterceptorError):
    """A call to a handler's resource failed: the resource is down, too slow, or full. Its content is unchanged, except
    in the cases that the engine's module documents.

    `status` is an HTTP status that suits a handler's answer: 503 unreachable, 504 too slow, 507 no space.
    """

    def __init__(self, message: str, status: int = 503) -> None:
        super().__init__(message)
        self.status = status


class BadArgument(BindingError, ValueError):
    """A call to a resource had an invalid argument, such as a key that is too long or a range past the end.

    `status` is an HTTP status from 400 to 499.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message, status)


class RuntimeFailure(InterceptorError):
    """A container could not be started, entered or stopped."""
