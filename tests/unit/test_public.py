"""The names that users import: documented for `help()`, and used as README, the package and the examples show."""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyinterceptor
from pyinterceptor import InterceptorError

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
DOCUMENTED = [name for name in pyinterceptor.__all__ if name not in ("Handler", "__version__")]  # without docstrings


def members(cls: type) -> Iterator[tuple[str, object]]:
    """Yields the public methods and properties in the class's body."""
    for name, value in vars(cls).items():
        if not name.startswith("_") and (inspect.isroutine(value) or isinstance(value, property)):
            yield name, value


@pytest.mark.parametrize("name", DOCUMENTED)
def test_a_public_name_and_its_methods_have_docstrings(name: str) -> None:
    value = getattr(pyinterceptor, name)
    assert inspect.getdoc(value)
    if inspect.isclass(value):
        assert [member for member, one in members(value) if not inspect.getdoc(one)] == []


@pytest.mark.parametrize("name", ["BindingError", "CaptureError", "FetchError", "PolicyError", "RuntimeFailure"])
def test_every_error_is_an_interceptor_error(name: str) -> None:
    assert issubclass(getattr(pyinterceptor, name), InterceptorError)


def loaded_alone(file: Path) -> str:
    """Returns the names of the app's classes. A process that has only the package and this file loads the app."""
    script = "import sys; from pyinterceptor.app.load import load_app;"
    script += "print(*(cls.__name__ for cls in load_app(sys.argv[1]).containers))"
    done = subprocess.run(
        [sys.executable, "-c", script, str(file)], capture_output=True, text=True, cwd=file.parent, timeout=60
    )
    assert done.stderr == ""
    return done.stdout.strip()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_stands_alone(example: Path, tmp_path: Path) -> None:
    assert loaded_alone(Path(shutil.copy(example, tmp_path))) == "Sandbox"


def test_the_example_of_readme_is_an_app_as_written(tmp_path: Path) -> None:
    block = re.search(r"## An example\n\n```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block is not None
    (tmp_path / "hello.py").write_text(block[1])
    assert loaded_alone(tmp_path / "hello.py") == "Sandbox"


def test_the_example_of_the_packages_docstring_is_an_app_as_written(tmp_path: Path) -> None:
    assert pyinterceptor.__doc__ is not None
    block = re.search(r"\n\n(    from pyinterceptor import .*?)\n\n\S", pyinterceptor.__doc__, re.DOTALL)
    assert block is not None
    (tmp_path / "an_app.py").write_text(textwrap.dedent(block[1]))
    assert loaded_alone(tmp_path / "an_app.py") == "Sandbox"
