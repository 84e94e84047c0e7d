"""An app: the container classes and what their handlers find in `env`."""

from __future__ import annotations

import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyinterceptor.container import Container
from pyinterceptor.errors import PolicyError
from pyinterceptor.policies import policy_of


class Env:
    """`env` of a handler: the app's bindings as attributes."""

    def __init__(self, bindings: Mapping[str, Any]) -> None:
        self.__dict__.update(bindings)

    def __getattr__(self, name: str) -> Any:
        known = ", ".join(sorted(self.__dict__)) or "none"
        raise AttributeError(f"no binding is called {name!r}; the app's bindings: {known}")

    def __repr__(self) -> str:
        return f"<Env {' '.join(sorted(self.__dict__))}>"


class App:
    """What `open_interceptor` and `pyinterceptor run` are given."""

    def __init__(self, *, containers: Sequence[type[Container]], bindings: Mapping[str, Any] | None = None) -> None:
        if not containers:
            raise PolicyError("an App needs at least one container class: App(containers=[Sandbox])")
        for cls in containers:
            if not (isinstance(cls, type) and issubclass(cls, Container)):
                raise PolicyError(f"App(containers=…) takes subclasses of Container, not {cls!r}")
        names = [cls.__name__ for cls in containers]
        if twice := {name for name in names if names.count(name) > 1}:
            raise PolicyError(f"two container classes are called {twice.pop()}: a class's name is its identity")
        self.containers = tuple(containers)
        self.env = Env(bindings or {})


def load_app(path: str) -> App:
    """Runs the file as a module, its directory on sys.path as for a script, and returns its `app`.

    Raises: PolicyError, with the cause chained, where the file can't be read, fails, holds no App or rules that
    can't be; the message begins with the place.
    """
    file = os.path.abspath(path)
    if not os.path.isfile(file):
        raise PolicyError(f"{path}: no such file")
    name = Path(file).stem
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise PolicyError(f"{path}: not a Python file (its name must end in .py)")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(name, module)
    sys.path.insert(0, os.path.dirname(file))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise PolicyError(f"{path}{_line_in(error, file)}: {_said(error, file)}") from error
    app = getattr(module, "app", None)
    if not isinstance(app, App):
        raise PolicyError(f"{path}: defines no App called `app`; write app = App(containers=[…])")
    for cls in app.containers:
        try:
            policy_of(cls, 0)
        except PolicyError as error:
            raise PolicyError(f"{path}{_line_of(cls, file)}: {cls.__name__}: {error}") from error
    return app


def _line_in(error: BaseException, file: str) -> str:
    """`:12` for the deepest line of the user's file that the error came from, else nothing."""
    if isinstance(error, SyntaxError) and error.filename == file:
        return f":{error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f":{lines[-1]}" if lines else ""


def _said(error: BaseException, file: str) -> str:
    if isinstance(error, PolicyError):
        return str(error)
    said = error.msg if isinstance(error, SyntaxError) and error.filename == file else str(error)
    return f"{type(error).__name__}: {said}"


def _line_of(cls: type, file: str) -> str:
    """`:12` for where a class of the user's file begins."""
    try:
        return f":{inspect.getsourcelines(cls)[1]}" if inspect.getsourcefile(cls) == file else ""
    except (OSError, TypeError):
        return ""
