"""Apps, and the files that define them: an error is one sentence that begins with the file and line."""

from __future__ import annotations

import importlib.util
import os
import py_compile
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from pyinterceptor import App, Container, PolicyError, open_interceptor
from pyinterceptor.app.load import load_app

HEAD = "from pyinterceptor import App, Container, Response\n"
WRONG = {
    "a syntax error": ("def broken(:\n    pass\n", ":2: SyntaxError: invalid syntax"),
    "an exception": ("\n\nvalues = {}\nvalues['key']\n", ":5: KeyError: 'key'"),
    "an exception below": ("def work():\n    1 / 0\n\nwork()\n", ":3: ZeroDivisionError: division by zero"),
    "a missing module": ("import nonesuch_module\n", ":2: ModuleNotFoundError: No module named 'nonesuch_module'"),
    "an exit": ("raise SystemExit('had enough')\n", ":2: SystemExit: had enough"),
    "no app": ("", ": defines no App called `app`; write app = App(containers=[…])"),
    "something else called app": ("app = 7\n", ": defines no App called `app`; write app = App(containers=[…])"),
    "no container": (
        "app = App(containers=[])\n",
        ":2: an App needs at least one container class: App(containers=[Sandbox])",
    ),
    "no handler": (
        "class Sandbox(Container):\n    pass\nSandbox.outbound = 7\n",
        ":4: outbound must be a function (request, env, ctx), not int",
    ),
    "a bad host": (
        "class Sandbox(Container):\n    pass\n"
        "@Sandbox.outbound_by_host('http://my.kv/')\ndef handler(request, env, ctx): ...\n"
        "app = App(containers=[Sandbox])\n",
        ":2: Sandbox: host pattern 'http://my.kv/': write a host, not a URL",
    ),
    "a bad network": (
        "class Sandbox(Container):\n    local_networks = ['10.0.0.0/33']\napp = App(containers=[Sandbox])\n",
        ":2: Sandbox: local_networks: '10.0.0.0/33' is not a network or address with a port",
    ),
}


@pytest.fixture(autouse=True)
def modules_as_they_were(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize("what", WRONG)
def test_an_error_in_a_file_names_its_line(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, said = WRONG[what]
    (tmp_path / "an_app.py").write_text(HEAD + text)
    monkeypatch.chdir(tmp_path)
    for path in ("an_app.py", str(tmp_path / "an_app.py")):
        with pytest.raises(PolicyError) as caught:
            load_app(path)
        assert str(caught.value).startswith(path + said)
        assert "\n" not in str(caught.value)


def test_a_missing_file_and_one_that_is_not_python_are_reported(tmp_path: Path) -> None:
    (tmp_path / "app.txt").write_text("")
    for path, said in (("app.txt", "not a Python file"), ("nonesuch.py", "no such file"), ("", "no such file")):
        with pytest.raises(PolicyError, match=said):
            load_app(str(tmp_path / path))


def test_an_error_in_a_module_of_the_apps_own_names_the_line_that_imports_it(tmp_path: Path) -> None:
    (tmp_path / "beside_it.py").write_text("def broken(:\n")
    (tmp_path / "an_app.py").write_text("\nimport beside_it\n")
    with pytest.raises(PolicyError, match=r"an_app\.py:2: SyntaxError: invalid syntax \(beside_it\.py, line 1\)"):
        load_app(str(tmp_path / "an_app.py"))


def test_an_app_finds_its_own_modules_also_later(tmp_path: Path) -> None:
    (tmp_path / "its_module.py").write_text("VALUE = 'found'\n")
    (tmp_path / "an_app.py").write_text(
        HEAD
        + "class Sandbox(Container): ...\n"
        + "def late():\n    import its_module\n    return its_module.VALUE\n"
        + "app = App(containers=[Sandbox], bindings={'late': late})\n"
    )
    app = load_app(str(tmp_path / "an_app.py"))
    assert [cls.__name__ for cls in app.containers] == ["Sandbox"]
    assert app.bindings['late']() == "found"


def test_a_module_beside_the_app_is_compiled_from_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stale compiled file has the time and the size of the source, so Python's own import would use it."""
    monkeypatch.setattr(sys, "pycache_prefix", None)
    monkeypatch.delenv("PYTHONPYCACHEPREFIX", raising=False)
    for path in ("module_a.py", "package_b/inner.py"):
        source = tmp_path / path
        source.parent.mkdir(exist_ok=True)
        source.write_text("VALUE = 'stale'\n")
        stale = source.with_name("stale.py")
        stale.write_text(source.read_text())
        compiled = py_compile.compile(str(stale), cfile=importlib.util.cache_from_source(str(source)))
        assert compiled is not None
        source.write_text("VALUE = 'fresh'\n")
        status = stale.stat()
        os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))
        stale.unlink()
    only = tmp_path / "without_source.py"
    only.write_text("VALUE = 'compiled'\n")
    py_compile.compile(str(only), cfile=str(only.with_suffix(".pyc")))
    only.unlink()
    text = HEAD + "class Sandbox(Container): ...\n"
    text += "import module_a, package_b.inner\n"
    text += "try:\n    import without_source\nexcept ImportError:\n    without_source = None\n"
    text += "bindings = {'VALUES': [module_a.VALUE, package_b.inner.VALUE, without_source]}\n"
    text += "app = App(containers=[Sandbox], bindings=bindings)\n"
    (tmp_path / "an_app.py").write_text(text)
    plain = [sys.executable, "-c", "import module_a; print(module_a.VALUE)"]
    assert subprocess.run(plain, cwd=tmp_path, capture_output=True, text=True).stdout == "stale\n"  # the control
    before = sorted(tmp_path.rglob("*"))
    assert load_app(str(tmp_path / "an_app.py")).bindings["VALUES"] == ["fresh", "fresh", None]
    assert sorted(tmp_path.rglob("*")) == before


def test_two_classes_of_one_name_are_refused() -> None:
    class Sandbox(Container):
        pass

    def another() -> type[Container]:
        return type(Container)("Sandbox", (Container,), {})

    with pytest.raises(PolicyError, match="two container classes are called Sandbox"):
        App(containers=[Sandbox, another()])


class Worker(Container):
    pass


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: App(), "an App needs at least one container class: App(containers=[Sandbox])"),
        (lambda: App(Worker), "App takes its arguments by name: App(containers=[Sandbox], bindings={…})"),
        (lambda: App([Worker], {}), "App takes its arguments by name: App(containers=[Sandbox], bindings={…})"),
        (
            lambda: App(containers=Worker),
            "App(containers=…) takes a list of classes, not Worker; write App(containers=[Sandbox])",
        ),
        (
            lambda: App(containers="Worker"),
            "App(containers=…) takes a list of classes, not 'Worker'; write App(containers=[Sandbox])",
        ),
        (
            lambda: App(containers=7),
            "App(containers=…) takes a list of classes, not 7; write App(containers=[Sandbox])",
        ),
        (lambda: App(containers=[7]), "App(containers=…) takes subclasses of Container, not 7"),
        (
            lambda: App(containers=[Worker()]),  # type: ignore[call-arg]
            "the interceptor makes the instances of Worker; pass the class Worker, not Worker()",
        ),
        (lambda: App(containers=["Worker"]), "App(containers=…) takes subclasses of Container, not 'Worker'"),
        (
            lambda: App(containers=[Worker], bindings=["KV"]),
            """App(bindings=…) maps names to values, as in {"KV": KV()}; ['KV'] is no mapping""",
        ),
        (
            lambda: App(containers=[Worker], bindings={"MY-KV": 1}),
            "App(bindings=…) maps names that env can have to values; 'MY-KV' is none",
        ),
    ],
)
def test_an_app_of_something_else_is_refused_in_a_sentence(make: Any, sentence: str) -> None:
    with pytest.raises(PolicyError) as caught:
        make()
    assert str(caught.value) == sentence


def test_a_class_that_is_none_of_the_apps_is_refused_with_those_it_has() -> None:
    class Other(Container):
        pass

    app = App(containers=[Worker])
    app.check_class(Worker)
    with pytest.raises(PolicyError, match="^Other is not a container of this app; it has: Worker$"):
        app.check_class(Other)
    for wrong in ("Worker", None, 7):
        with pytest.raises(PolicyError, match=f"^{wrong!r} is not a container class; pass one of the app's: Worker$"):
            app.check_class(wrong)


MISSPELT = {
    "in a body": ("class Sandbox(Container):\n    enable_internett = False\n", 2),
    "in an annotated body": ("class Sandbox(Container):\n    enable_internett: bool = False\n", 2),
    "on assignment": ("class Sandbox(Container): ...\n\nSandbox.enable_internett = False\n", 4),
}


@pytest.mark.parametrize("how", MISSPELT)
def test_a_misspelt_setting_in_a_file_names_its_line(how: str, tmp_path: Path) -> None:
    text, line = MISSPELT[how]
    file = tmp_path / "an_app.py"
    file.write_text(HEAD + text + "app = App(containers=[Sandbox])\n")
    with pytest.raises(PolicyError) as caught:
        load_app(str(file))
    sentence = "enable_internett: unknown attribute of Sandbox; did you mean enable_internet?"
    assert str(caught.value) == f"{file}:{line}: {sentence}"


@pytest.mark.parametrize("given", [Container, [Container], None])
def test_an_interceptor_of_anything_but_an_app_is_refused_in_a_sentence(given):
    async def main() -> None:
        async with open_interceptor(given):
            raise AssertionError("it opened")

    with pytest.raises(PolicyError, match="open_interceptor takes an App, not .*; write open_interceptor"):
        trio.run(main)
