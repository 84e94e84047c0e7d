"""Loads an app from the Python file that defines it."""

from __future__ import annotations

import inspect
import linecache
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType

from pyinterceptor.app.app import App
from pyinterceptor.app.source import import_from_source
from pyinterceptor.errors import PolicyError


def load_app(path: str) -> App:
    """Runs the file as a module, its directory on sys.path as for a script, and returns its `app`.

    The file and the modules beside it are compiled from their source.

    Raises PolicyError, with the cause chained, if the file can't be read, fails, has no App, or has an invalid rule.
    The message begins with the file and line.
    """
    file = os.path.abspath(path)
    if not os.path.isfile(file):
        raise PolicyError(f"{path}: no such file")
    if not file.endswith(".py"):
        raise PolicyError(f"{path}: not a Python file (its name must end in .py)")
    module = ModuleType(Path(file).stem)
    module.__file__ = file
    sys.modules.setdefault(module.__name__, module)
    linecache.checkcache(file)  # it may have been loaded before
    if (directory := os.path.dirname(file)) not in sys.path:
        sys.path.insert(0, directory)
    import_from_source(directory)
    try:
        # Always from the source: a compiled file counts as current if time in seconds and size are the same.
        exec(compile(Path(file).read_bytes(), file, "exec", dont_inherit=True), module.__dict__)
    except (Exception, SystemExit) as error:
        raise PolicyError(f"{path}{_line_in(error, file)}: {_reason(error, file)}") from error
    app = getattr(module, "app", None)
    if not isinstance(app, App):
        raise PolicyError(f"{path}: defines no App called `app`; write app = App(containers=[…])")
    for cls in app.containers:
        try:
            app.policy(cls, 0)
        except PolicyError as error:
            raise PolicyError(f"{path}{_line_of(cls, file)}: {cls.__name__}: {error}") from error
    return app


def _line_in(error: BaseException, file: str) -> str:
    """Returns `:12`, the deepest line of the user's file in the traceback; "" if it has none."""
    if isinstance(error, SyntaxError) and error.filename == file:
        return f":{error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f":{lines[-1]}" if lines else ""


def _reason(error: BaseException, file: str) -> str:
    if isinstance(error, PolicyError):
        return str(error)
    reason = error.msg if isinstance(error, SyntaxError) and error.filename == file else str(error)
    return f"{type(error).__name__}: {reason}"


def _line_of(cls: type, file: str) -> str:
    """Returns `:12`, the first line of the class; "" if another file defines it."""
    try:
        return f":{inspect.getsourcelines(cls)[1]}" if inspect.getsourcefile(cls) == file else ""
    except (OSError, TypeError):
        return ""
