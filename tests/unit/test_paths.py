"""Paths on disk are named once, in paths.py."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyinterceptor.paths import RESOLV_CONF, RUN, STATE, InstancePaths, is_name

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "pyinterceptor"
MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "paths.py"]


def literals(tree: ast.AST) -> Iterator[str]:
    """Yields the strings of a module and the parts of f-strings, but no docstrings and no help texts."""
    prose: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) or (isinstance(node, ast.keyword) and node.arg == "help"):
            prose.add(node.value)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in prose:
            yield node.value


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_other_module_spells_a_place(path: Path) -> None:
    places = str(RUN), str(STATE), str(RESOLV_CONF)
    assert not [text for text in literals(ast.parse(path.read_text())) if any(place in text for place in places)]


@pytest.mark.parametrize("place", [RUN, STATE], ids=str)
def test_the_dev_script_reads_a_place_from_paths(place: Path) -> None:
    script = (ROOT / "dev").read_text()
    assert str(place) not in script
    assert "path_of RUN" in script
    assert "path_of STATE" in script


def test_the_files_of_an_instance_are_its_own() -> None:
    one, other = InstancePaths(RUN / "one"), InstancePaths(RUN / "other")
    files = {path for paths in (one, other) for path in (paths.lock, paths.namespace, paths.pins)}
    assert len(files) == 6
    assert all(path.parent.parent == RUN for path in files)


@pytest.mark.parametrize("name", ["a", "A.b-c_d", "9", "a" * 64])
def test_a_name_of_letters_digits_dots_dashes_underscores_is_one(name: str) -> None:
    assert is_name(name)


@pytest.mark.parametrize("name", ["", ".", "..", ".a", "-a", "a/b", "a b", "a\n", "é", "a" * 65])
def test_a_name_that_could_lead_elsewhere_is_none(name: str) -> None:
    assert not is_name(name)
