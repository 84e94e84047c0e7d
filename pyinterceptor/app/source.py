"""Imports the modules beside an app from their source, never from a compiled file.

A compiled file counts as current if its source has the same size, and the same time in seconds. So it may be stale, and
a container that could write beside the app in an earlier run could have left it there.
"""

from __future__ import annotations

import os
import sys
from importlib.abc import PathEntryFinder
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES, ExtensionFileLoader, FileFinder, SourceFileLoader
from pathlib import Path
from types import CodeType


class FromSource(SourceFileLoader):
    """Compiles a module at each import. Neither reads nor writes compiled files."""

    def get_code(self, fullname: str) -> CodeType:
        """Returns the code of the module."""
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


_finder = FileFinder.path_hook((ExtensionFileLoader, EXTENSION_SUFFIXES), (FromSource, SOURCE_SUFFIXES))
_directories: set[Path] = set()


def import_from_source(directory: str) -> None:
    """Imports all modules in this directory, and in those below it, from their source from now on.

    Installed packages below it, as in a virtual environment, are imported as ever.
    """
    _directories.add(Path(os.path.realpath(directory)))
    if _find_in not in sys.path_hooks:
        sys.path_hooks.insert(0, _find_in)
    for entry in list(sys.path_importer_cache):
        if _is_beside(entry):
            del sys.path_importer_cache[entry]


def _find_in(entry: str) -> PathEntryFinder:
    """Returns the finder of an entry of sys.path. Raises ImportError if the entry is another hook's."""
    if not _is_beside(entry):
        raise ImportError
    return _finder(entry)


def _is_beside(entry: str) -> bool:
    place = Path(os.path.realpath(entry))
    below = next((place.relative_to(top) for top in _directories if place.is_relative_to(top)), None)
    return below is not None and not {"site-packages", "dist-packages"}.intersection(below.parts)
