"""The files of a git repository that name programs which git runs, and that a container must not write.

gitrepository-layout(5): `hooks`, the configuration, and `commondir`, which names a directory for these.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

FILES = ("hooks", "config", "config.worktree", "commondir")
OWN = ".\n"  # a commondir that names its own directory, as if there were none


def protected(root: Path) -> Iterator[Path]:
    """Yields these files of the repository in `root`, of its submodules and of its worktrees.

    A directory with a link among these files is yielded whole, since a link can be replaced.
    """
    repository = root / ".git"
    if repository.is_file() and not repository.is_symlink():
        yield repository  # it names the repository
    for directory in _directories(repository):
        files = [directory / name for name in FILES if os.path.lexists(directory / name)]
        yield from [directory] if any(file.is_symlink() for file in files) else files


@contextmanager
def completing(roots: Iterable[Path]) -> Iterator[None]:
    """Makes the files that are missing, so that they can be protected. A commondir is removed when the block ends."""
    directories = [directory for root in roots for directory in _directories(root / ".git")]
    for directory in directories:
        status = directory.stat()
        hooks, common = directory / "hooks", directory / "commondir"
        if not os.path.lexists(hooks):
            hooks.mkdir()
            os.chown(hooks, status.st_uid, status.st_gid)
        if not os.path.lexists(common):
            common.write_text(OWN)
            os.chown(common, status.st_uid, status.st_gid)
    try:
        yield
    finally:
        for directory in directories:
            common = directory / "commondir"
            if common.is_file() and not common.is_symlink() and common.read_text() == OWN:
                common.unlink()


def _directories(repository: Path) -> Iterator[Path]:
    if repository.is_symlink() or not repository.is_dir():
        return
    yield repository
    for top in (repository / "modules", repository / "worktrees"):
        if top.is_symlink():
            continue
        for directory, names, files in os.walk(top):
            if "HEAD" in files and ("objects" in names or "commondir" in files):
                yield Path(directory)
