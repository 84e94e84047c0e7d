"""A handler: the arguments it must take, the place where it stands, and the mistakes that are common in one."""

from __future__ import annotations

import asyncio
import functools
import inspect
import traceback
from collections.abc import Callable
from pathlib import Path
from types import CodeType
from typing import Any

from pyinterceptor.errors import PolicyError

ASYNCIO = str(Path(asyncio.__file__).parent)
# Trio's message if a task awaits a future of asyncio.
FOREIGN_FUTURE = "unrecognized yield message"
# Messages of asyncio's functions that are written in C. They fail so under Trio, without a frame in the traceback.
WITHOUT_LOOP = ("no running event loop", "no current event loop")


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
    """Returns `greetings (/srv/app.py:12)`; the name alone if the handler has no Python code."""
    code = _code_of(handler)
    if code is None:
        return str(getattr(handler, "__qualname__", type(handler).__name__))
    return f"{code.co_qualname} ({code.co_filename}:{code.co_firstlineno})"


def wrong_answer(handler: Callable[..., Any], answer: object) -> TypeError:
    """Returns the error for an answer that is not a Response. Closes the answer if it is a coroutine."""
    if inspect.iscoroutine(answer):
        answer.close()
        returned, missing = "a coroutine", "is an `await` missing?"
    elif answer is None:
        returned, missing = "None", "is a `return` or an `await` missing?"
    else:
        returned, missing = f"a {type(answer).__name__}", "wrap it in Response(…), or is an `await` missing?"
    return TypeError(f"{place_of(handler)} returned {returned}, not a Response; {missing}")


def explain_asyncio(error: Exception, handler: Callable[..., Any]) -> None:
    """Adds a note with the handler's line to an error that an asyncio call raised, since Trio runs handlers."""
    frames = traceback.extract_tb(error.__traceback__)
    is_foreign = str(error) in WITHOUT_LOOP or FOREIGN_FUTURE in str(error)
    if is_foreign or any(frame.filename.startswith(ASYNCIO) for frame in frames):
        place = _line_in(frames, handler)
        remedy = "use trio.sleep() for asyncio.sleep(), a nursery for tasks"
        error.add_note(f"{place}: handlers run under Trio, not asyncio; {remedy}")


def _line_in(frames: traceback.StackSummary, handler: Callable[..., Any]) -> str:
    """Returns `greetings (/srv/app.py:14)`: the deepest of these frames that is in the handler's file."""
    code = _code_of(handler)
    lines = [frame for frame in frames if code is not None and frame.filename == code.co_filename]
    return f"{lines[-1].name} ({lines[-1].filename}:{lines[-1].lineno})" if lines else place_of(handler)


def _code_of(handler: Any) -> CodeType | None:
    """Returns the code of the function inside decorators, methods, partial() and objects with `__call__`."""
    handler = inspect.unwrap(handler)
    while isinstance(handler, functools.partial):
        handler = inspect.unwrap(handler.func)
    function = getattr(handler, "__func__", handler)
    if not hasattr(function, "__code__"):
        function = getattr(type(handler), "__call__", None)  # noqa: B004  # looked up for its code
    code = getattr(function, "__code__", None)
    return code if isinstance(code, CodeType) else None
