"""The directories in which resources keep their data on this machine. No container sees them."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from pyinterceptor.errors import PolicyError
from pyinterceptor.paths import NAME_RULE, STATE, is_name


def state_directory(name: str) -> Path:
    """Returns the directory of an app's resources. Raises PolicyError if `name` is no valid directory name."""
    if not is_name(name):
        raise PolicyError(f"state {name!r}: {NAME_RULE}")
    return STATE / name


def state_of_file(path: str) -> str:
    """Returns the state name of an app that is run from a file: the same at every run, and different for every file."""
    place = os.path.realpath(path)
    stem = re.sub(r"[^A-Za-z0-9_-]", "_", Path(place).stem)[:40]
    return f"app-{stem}-{hashlib.sha256(place.encode()).hexdigest()[:12]}"
