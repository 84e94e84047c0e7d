"""Directories are reached without following a link."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyinterceptor.runtime.walk import make_file, walk


def test_directories_are_made_and_opened(tmp_path: Path) -> None:
    with walk(tmp_path, Path("a/b"), make=True) as fd:
        assert os.path.samestat(os.fstat(fd), os.stat(tmp_path / "a/b"))
    with walk(tmp_path, Path("a")) as fd:
        assert os.listdir(fd) == ["b"]
    make_file(tmp_path, Path("a/c/file"))
    (tmp_path / "a/c/file").write_text("kept")
    make_file(tmp_path, Path("a/c/file"))
    assert (tmp_path / "a/c/file").read_text() == "kept"


@pytest.mark.parametrize("link", ["first", "first/second", "first/second/third"])
def test_a_link_ends_the_walk_and_is_named(link: str, tmp_path: Path) -> None:
    target = tmp_path / "target"
    (target / "second/third").mkdir(parents=True)
    (tmp_path / link).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / link).symlink_to(target)
    for make in (False, True):
        with pytest.raises(OSError, match=link) as caught, walk(tmp_path, Path("first/second/third"), make=make):
            pass
        assert caught.value.filename == link
    with pytest.raises(OSError, match=link) as caught:
        make_file(tmp_path, Path("first/second/third"))
    assert caught.value.filename == link
    assert [str(path.relative_to(target)) for path in target.rglob("*")] == ["second", "second/third"]


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, walk(tmp_path, Path("a/b")):
        pass
    assert caught.value.filename == "a"
