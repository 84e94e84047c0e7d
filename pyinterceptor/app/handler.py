"""A handler: the arguments it must take, the place where it stands, and the mistakes that are common in one."""

from __future__ import annotations

import functools
import inspect
import traceback
from collections.abc import Callable
from types import CodeType
from typing import Any

from pyinterceptor.errors import PolicyError

# How asyncio's functions fail under Trio, and Trio's own under asyncio.run().
ASYNCIO_FAULTS = ("no running event loop", "no current event loop", "unrecognized yield message", "Task got bad yield")


def check_handler(handler: Any, setting: str) -> Any:
    """Returns the handler. Raises PolicyError, which names the setting, if it can't take (request, env, ctx)."""
    if not callable(handler):
        raise PolicyError(f"{setting} must be a function (request, env, ctx), not {type(handler).__name__}")
    try:
        inspect.signature(handler).bind(None, None, None)
    except TypeError as error:
        raise PolicyError(f"{setting} must take (request, env, ctx): {error}") from error
    except ValueError:
        return handler  # a builtin without a signature
    return handler


def place_of(handler: Callable[..., Any]) -> str:
    """`greetings (/srv/app.py:12)`; its name alone if it has no Python code."""
    code = _code_of(handler)
    name = getattr(handler, "__qualname__", None) or (type(handler).__name__ if code is None else code.co_name)
    return name if code is None else f"{name} ({code.co_filename}:{code.co_firstlineno})"


def wrong_answer(handler: Callable[..., Any], answer: object) -> TypeError:
    """The error of a handler that returned something else than a Response; closes a coroutine that nobody awaited."""
    if inspect.iscoroutine(answer):
        answer.close()
        returned, missing = "a coroutine", "is an `await` missing?"
    elif answer is None:
        returned, missing = "None", "is a `return` or an `await` missing?"
    else:
        returned = f"{type(answer).__name__}"
        missing = "wrap it in Response(…), or is an `await` missing?"
    return TypeError(f"{place_of(handler)} returned {returned}, not a Response; {missing}")


def explain_asyncio(error: BaseException, handler: Callable[..., Any]) -> None:
    """Adds a note with the handler's line to an error that comes from using asyncio under Trio."""
    if any(fault in str(error) for fault in ASYNCIO_FAULTS):
        remedy = "use trio.sleep() for asyncio.sleep(), a nursery for tasks"
        error.add_note(f"{_line_in(error, handler)}: handlers run under Trio, not asyncio; {remedy}")


def _line_in(error: BaseException, handler: Callable[..., Any]) -> str:
    """`greetings (/srv/app.py:14)`, the deepest line of the handler's file that the error came through."""
    code = _code_of(handler)
    frames = traceback.extract_tb(error.__traceback__)
    lines = [] if code is None else [frame for frame in frames if frame.filename == code.co_filename]
    return f"{lines[-1].name} ({lines[-1].filename}:{lines[-1].lineno})" if lines else place_of(handler)


def _code_of(handler: Any) -> CodeType | None:
    """Of the function inside decorators, methods, partial() and objects with `__call__`."""
    handler = inspect.unwrap(handler)
    while isinstance(handler, functools.partial):
        handler = inspect.unwrap(handler.func)
    function = getattr(handler, "__func__", handler)
    if not hasattr(function, "__code__"):
        function = getattr(type(handler), "__call__", None)  # noqa: B004  # looked up for its code
    code = getattr(function, "__code__", None)
    return code if isinstance(code, CodeType) else None
