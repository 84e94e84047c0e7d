"""An app: the container classes and what their handlers find in `env`."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyinterceptor.container import Container
from pyinterceptor.errors import PolicyError


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
    """Imports the file and returns its `app`.

    Raises: PolicyError, with the cause chained, where the file can't be read, fails or holds no App.
    """
    file = Path(path)
    if not file.is_file():
        raise PolicyError(f"{path}: no such file")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise PolicyError(f"{path}: not a Python file (its name must end in .py)")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(file.stem, module)
    sys.path.insert(0, str(file.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        line = _line_in(error, str(file))
        raise PolicyError(f"{path}{line}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.pop(0)
    app = getattr(module, "app", None)
    if not isinstance(app, App):
        raise PolicyError(f"{path}: defines no App called `app`; write app = App(containers=[…])")
    return app


def _line_in(error: BaseException, path: str) -> str:
    """`:12` for the deepest line of the user's file in the traceback, else nothing."""
    number, trace = "", error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == path:
            number = f":{trace.tb_lineno}"
        trace = trace.tb_next
    return number
