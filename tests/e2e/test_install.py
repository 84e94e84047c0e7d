"""The wheel in a plain virtual environment, which shows none of Debian's modules: install, use, uninstall."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.world import World

ROOT = Path(__file__).parents[2]
OPTIONS = ["--quiet", "--no-index", "--no-deps"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("wheel")
    tree = place / "tree"
    tree.mkdir()
    subprocess.run(["cp", "-r", "--", *sources(), str(tree)], check=True)
    command = [sys.executable, "-m", "pip", "wheel", *OPTIONS, "--no-build-isolation", "--wheel-dir", str(place)]
    subprocess.run([*command, str(tree)], check=True)
    (made,) = place.glob("*.whl")
    return made


def sources() -> list[str]:
    names = ("pyinterceptor", "cext", "kernel", "setup.py", "pyproject.toml", "README.md", "MANIFEST.in")
    return [str(ROOT / name) for name in names]


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yields a virtual environment with the wheel. Its dependencies are those of the tests' own environment."""
    place = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    packages = next(place.glob("lib/python*/site-packages"))
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    subprocess.run([str(place / "bin/pip"), "install", *OPTIONS, str(wheel)], check=True)
    yield place
    subprocess.run([str(place / "bin/pip"), "uninstall", "--quiet", "--yes", "pyinterceptor"], check=True)
    assert list(packages.glob("pyinterceptor*")) == []
    assert not (place / "bin/pyinterceptor").exists()


def test_one_wheel_serves_every_python_from_3_11(wheel: Path) -> None:
    assert "-cp311-abi3-" in wheel.name


def test_the_environment_shows_none_of_debians_modules(environment: Path) -> None:
    for name in ("bcc", "nftables"):
        command = [str(environment / "bin/python"), "-c", f"import {name}"]
        found = subprocess.run(command, capture_output=True, text=True)
        assert "ModuleNotFoundError" in found.stderr


def test_doctor_finds_nothing_missing(environment: Path) -> None:
    ran = subprocess.run([str(environment / "bin/pyinterceptor"), "doctor"], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stdout


def test_a_command_runs_under_the_rules_of_an_example(environment: Path, world: World, tmp_path: Path) -> None:
    program = "import pyinterceptor; print(pyinterceptor.__file__)"
    found = subprocess.run([str(environment / "bin/python"), "-P", "-c", program], capture_output=True, text=True)
    assert found.stdout.startswith(str(environment)), found
    app = tmp_path / "hello.py"
    app.write_text((ROOT / "examples/hello.py").read_text())
    command = [str(environment / "bin/pyinterceptor"), "run", str(app), "--", "curl", "-s", "http://my.kv/greeting"]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (ran.returncode, ran.stdout) == (0, "hello"), ran.stderr
