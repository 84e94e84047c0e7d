"""The files of a `run`: its options, and the directories from which this process loads code."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import shtab

from pyinterceptor.errors import PolicyError
from pyinterceptor.paths import HOMES
from pyinterceptor.runtime.files import Files, guarded_in
from pyinterceptor.runtime.user import invoking_user, named_user


def add_files(verb: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    places = [
        verb.add_argument("--workdir", metavar="DIR", help="the writable working directory (default: the current one)"),
        verb.add_argument(
            "--writable", metavar="PATH", action="append", default=[], help="another path of the host that is writable"
        ),
        verb.add_argument(
            "--show", metavar="PATH", action="append", default=[], help="another path of the host that is read-only"
        ),
    ]
    for place in places:
        place.complete = shtab.FILE  # type: ignore[attr-defined]
    verb.add_argument(
        "--home",
        choices=("fresh", "keep"),
        default="fresh",
        help="whether the command's home directory is empty (the default), or kept from run to run",
    )


def files_of(options: argparse.Namespace, state: str) -> Files:
    """Returns the files that the options ask for. Makes the home that is kept."""
    user = invoking_user() if options.user is None else named_user(options.user)
    home = None
    if options.home == "keep":
        home = HOMES / f"{state}-{user.uid}"
        HOMES.mkdir(mode=0o700, parents=True, exist_ok=True)
        home.mkdir(mode=0o700, exist_ok=True)
        os.chown(home, user.uid, user.gid)
    return Files(
        workdir=_real(options.workdir or "."),
        home=home,
        show=tuple(map(_real, options.show)),
        writable=tuple(map(_real, options.writable)),
        guarded=tuple(sorted(set(_loaded_from(options.app)))),
    )


def refuse_files(options: argparse.Namespace) -> None:
    """Raises PolicyError if an option for the files is given."""
    if options.workdir or options.writable or options.show or options.home != "fresh":
        raise PolicyError("--workdir, --home, --show and --writable are for containers without an image")


def read_only_line(files: Files) -> str | None:
    """Returns a sentence that names the directories which are read-only because code is loaded from them, or None."""
    assert files.workdir is not None
    places = guarded_in(files.workdir, files.guarded)
    if files.workdir in places:
        return f"{files.workdir} is read-only inside, because the app is loaded from it; --workdir DIR chooses another"
    places |= {inner for place in files.writable for inner in guarded_in(place, files.guarded)}
    if not places:
        return None
    return f"read-only inside, because the app is loaded from there: {', '.join(map(str, sorted(places)))}"


def _loaded_from(app: str) -> Iterator[Path]:
    yield Path(os.path.abspath(app)).parent.resolve()
    yield _real(app).parent
    for module in [found for found in list(sys.modules.values()) if isinstance(found, ModuleType)]:
        if isinstance(file := vars(module).get("__file__"), str):
            yield _real(file).parent
        yield from map(_existing, vars(module).get("__path__") or ())  # a namespace package has no file
    yield from map(_existing, (*sys.path, sys.prefix, sys.exec_prefix))


def _existing(path: str) -> Path:
    """Returns the deepest directory of a path that exists: a command could make the rest."""
    place = _real(path or ".")
    while not place.exists():
        place = place.parent
    return place


def _real(path: str) -> Path:
    return Path(os.path.realpath(path))
