"""A module imports only from its left, and pure modules do no I/O."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "pyinterceptor"
# From left to right. The package itself is to the right of all.
LAYERS = [
    *("paths", "version", "errors", "arguments", "boundary", "threads", "_relay", "web", "policy"),
    *("bindings", "app", "capture", "relay", "dns", "http", "runtime", "serving", "opening", "faces", "cli"),
]
PURE = ["paths.py", "arguments.py", "web", "policy", "app/policies.py"] + [
    f"dns/{name}.py" for name in ("query", "names", "answers")
]
PURE += ["serving/records.py", "serving/lines.py", "cli/refusals.py"]
IMPURE_MODULES = {"trio", "socket", "os", "time", "logging"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def layer(name: str) -> int | None:
    parts = name.split(".")
    if parts[0] != "pyinterceptor" or len(parts) < 2 or parts[1] not in LAYERS:
        return None
    return LAYERS.index(parts[1])


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_its_left(path: Path) -> None:
    here = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    here_at = LAYERS.index(here) if here in LAYERS else len(LAYERS)
    wrong = {name for name in imported(path) if (at := layer(name)) is not None and at > here_at}
    assert not wrong


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_imports_from_the_package_itself(path: Path) -> None:
    """The package exports every public name, so that such a module would import everything."""
    whole = {name for name in imported(path) if name.count(".") == 1 and name.startswith("pyinterceptor.")}
    assert not {name for name in whole if layer(name) is None}


def test_every_module_has_its_place() -> None:
    places = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in modules()} | {"_relay"}
    assert places - {"__init__", "__main__"} == set(LAYERS)


# The parts that need root, and the folders that may not import them: opening.py passes a Capture and runtimes to those.
ROOT_PARTS = ("capture.gateway", "capture.probe", "capture.routes", "runtime.netns", "runtime.podman", "opening", "cli")
WITHOUT_ROOT = ("serving", "relay", "bindings", "dns", "http", "policy", "app", "web")


@pytest.mark.parametrize("place", WITHOUT_ROOT)
def test_nothing_that_serves_imports_a_part_that_needs_root(place: str) -> None:
    wrong = {
        (path.name, name)
        for path in (PACKAGE / place).rglob("*.py")
        for name in imported(path)
        for part in ROOT_PARTS
        if f"{name}.".startswith(f"pyinterceptor.{part}.")
    }
    assert not wrong


def test_one_module_alone_puts_the_root_parts_and_the_rest_together() -> None:
    composing = {
        str(path.relative_to(PACKAGE))
        for path in modules()
        if {"pyinterceptor.capture.gateway.gateway", "pyinterceptor.serving.interceptor"} <= imported(path)
    }
    assert composing == {"opening.py"}


@pytest.mark.parametrize("place", PURE)
def test_pure_modules_do_no_io(place: str) -> None:
    root = PACKAGE / place
    paths = list(root.rglob("*.py")) if root.is_dir() else [root]
    assert paths
    wrong = {(path.name, name) for path in paths for name in imported(path) if name.split(".")[0] in IMPURE_MODULES}
    assert not wrong
