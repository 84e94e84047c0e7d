"""The files of git repositories that name programs which git runs, and that a container must not write.

gitrepository-layout(5): `hooks`, the configuration, and `commondir`, which names a directory for these. Repositories
that a container makes can't be protected.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

FILES = ("hooks", "config", "config.worktree", "commondir")
OWN = ".\n"  # a commondir that names its own directory, as if there were none
WITHOUT_REPOSITORIES = ("objects", "refs", "logs")  # directories of a repository, which can be large


def find_repositories(root: Path, without: Collection[Path]) -> list[Path]:
    """Returns the directories of all repositories in `root`, and the files called .git that name one.

    Those of submodules, of worktrees and bare ones count, too. Links aren't followed, and the directories in `without`
    aren't searched. Takes about half a second of processor time for 100 000 files.
    """
    found: list[str] = []
    pending, unsearched = [str(root)], set(map(str, without))
    while pending:  # strings, since a Path costs more than all else here
        directory = pending.pop()
        if directory in unsearched:
            continue
        try:
            with os.scandir(directory) as entries:
                below = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
        except OSError:  # it was removed
            continue
        skipped: Collection[str] = ()
        if os.path.basename(directory) == ".git" or _has_layout(below):
            found.append(directory)
            skipped = WITHOUT_REPOSITORIES
        path = os.path.join(directory, ".git")
        if below.get(".git") is False and not os.path.islink(path):
            found.append(path)
        pending += [os.path.join(directory, name) for name, is_dir in below.items() if is_dir and name not in skipped]
    return list(map(Path, found))


def protected(repositories: Iterable[Path]) -> Iterator[Path]:
    """Yields the paths to protect.

    A directory with a link among these files is yielded whole, since a link can be replaced.
    """
    for place in repositories:
        if not place.is_dir():
            yield place
            continue
        files = [place / name for name in FILES if os.path.lexists(place / name)]
        yield from [place] if any(file.is_symlink() for file in files) else files


@contextmanager
def completing(repositories: Iterable[Path]) -> Iterator[None]:
    """Makes the files that are missing, so that they can be protected. A commondir is removed when the block ends."""
    directories = [place for place in repositories if place.is_dir()]
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


def _has_layout(names: Collection[str]) -> bool:
    return "HEAD" in names and (("objects" in names and "refs" in names) or "commondir" in names)
