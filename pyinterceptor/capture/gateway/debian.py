"""Modules that come with the system's Python and not from PyPI: bcc and nftables.

A virtual environment usually doesn't show them, so they are looked for through the interpreters that may have them.
"""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

INTERPRETERS = tuple(dict.fromkeys(("/usr/bin/python3", sys.executable)))
DEADLINE = 30.0  # seconds that an interpreter has to answer


def has_bcc() -> bool:
    """Whether an interpreter can import BCC."""
    return any(_ask(interpreter, "from bcc import BPF") is not None for interpreter in INTERPRETERS)


@cache
def nftables() -> ModuleType:
    """Imports the module nftables, which is Python without dependencies. Raises ImportError."""
    try:
        return importlib.import_module("nftables")
    except ImportError:
        place = _place("nftables")
    if place is None:
        raise ImportError("no interpreter has the module nftables")
    start, places = place / "__init__.py", [str(place)]
    spec = importlib.util.spec_from_file_location("nftables", start, submodule_search_locations=places)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["nftables"] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules["nftables"]
        raise
    return module


def _place(name: str) -> Path | None:
    """Returns the directory of a package that an interpreter can import."""
    for interpreter in INTERPRETERS:
        if (answer := _ask(interpreter, f"import {name}; print({name}.__path__[0])")) is not None:
            return Path(answer)
    return None


def _ask(interpreter: str, program: str) -> str | None:
    """Returns the output of a Python program; None if it fails."""
    try:
        done = subprocess.run(
            [interpreter, "-I", "-c", program],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            start_new_session=True,  # Ctrl-C must reach this process only
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
