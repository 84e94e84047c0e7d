"""The files of a `run`: nothing inside can change the code that runs outside, and ordinary tools work.

Every refused attempt has a control: the same attempt at a place that is writable.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "pyinterceptor"
APP = """
from pyinterceptor import App, Container

class Sandbox(Container):
    enable_internet = False

app = App(containers=[Sandbox])
"""
TIME = 120.0  # seconds
GIT = "git -c user.name=one -c user.email=one@example.com"


@pytest.fixture
def project() -> Iterator[Path]:
    """A working directory from which no code is loaded."""
    with tempfile.TemporaryDirectory(prefix="project-") as name:
        yield Path(name)


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """An app in a directory of its own."""
    (tmp_path / "app.py").write_text(APP)
    return tmp_path / "app.py"


def run(
    app: Path | str, script: str, *options: str, cwd: Path, path: str = str(ROOT), **environment: str
) -> tuple[int, str, str]:
    """Runs a shell script inside. Returns its exit code, its output and its errors."""
    argv = [sys.executable, "-m", "pyinterceptor", "run", *options, str(app), "--", "sh", "-c", script]
    given: Any = {"env": {**os.environ, "PYTHONPATH": path, **environment}, "cwd": cwd, "timeout": TIME}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, **given)
    return done.returncode, done.stdout, done.stderr


def succeeds(script: str) -> str:
    """Returns a script that prints whether this one succeeds."""
    return f"if ({script}) 2>/dev/null; then echo yes; else echo no; fi"


# --- code that runs outside ---


CHANGES = [
    "echo x=1 >>{}/app.py",
    "echo x=1 >{}/json.py",
    "mkdir {}/json",
    "mv {}/app.py {}/old.py",
    "mv {} ./elsewhere",
]


def test_the_apps_directory_is_read_only_where_it_is_the_working_directory(project: Path) -> None:
    (project / "app.py").write_text(APP)
    script = "; ".join(succeeds(change.format(*[".", "."])) for change in CHANGES[:4])
    code, said, errors = run("app.py", script, cwd=project)
    assert (code, said.split()) == (0, ["no"] * 4)
    line = f"pyinterceptor: {project} is read-only inside, because the app is loaded from it; "
    line += "--workdir DIR chooses another"
    assert errors.splitlines()[0] == line
    assert [entry.name for entry in project.iterdir()] == ["app.py"]
    assert (project / "app.py").read_text() == APP


def test_another_working_directory_is_writable_and_says_nothing(project: Path, app: Path) -> None:
    script = "; ".join(succeeds(change.format(*[".", "."])) for change in CHANGES[:4]) + "; pwd"
    code, said, errors = run(app, script, "--workdir", str(project), cwd=app.parent)
    assert (code, said.split(), errors) == (0, ["yes"] * 4 + [str(project)], "")
    assert app.read_text() == APP


def test_the_apps_directory_below_the_working_directory_is_read_only_and_stays_in_its_place(project: Path) -> None:
    (project / "rules/of").mkdir(parents=True)
    (project / "rules/of/app.py").write_text(APP)
    script = "; ".join(succeeds(change.format("rules/of", "rules/of")) for change in CHANGES)
    script += "; " + succeeds("mv rules other") + "; " + succeeds("touch rules/free mine")
    code, said, errors = run("rules/of/app.py", script, cwd=project)
    assert (code, said.split()) == (0, ["no"] * (len(CHANGES) + 1) + ["yes"])
    line = f"pyinterceptor: read-only inside, because the app is loaded from there: {project}/rules/of"
    assert errors.splitlines() == [line]
    assert {"mine", "rules"} <= {entry.name for entry in project.iterdir()}  # mv may have made a copy
    assert [entry.name for entry in (project / "rules/of").iterdir()] == ["app.py"]
    assert (project / "rules/of/app.py").read_text() == APP


def test_the_directories_of_imports_and_of_our_package_are_read_only(project: Path) -> None:
    """A directory that Python looks in is read-only even before it exists."""
    shutil.copytree(PACKAGE, project / "vendor/pyinterceptor", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "kernel", project / "vendor/pyinterceptor/_kernel", dirs_exist_ok=True)
    (project / "rules").mkdir()
    (project / "rules/app.py").write_text("import mine.own\n" + APP)
    (project / "lib/mine").mkdir(parents=True)
    (project / "lib/mine/own.py").touch()
    (project / "later").mkdir()
    path = os.pathsep.join([str(project / "vendor"), str(project / "lib"), str(project / "later/missing")])
    places = ["vendor", "vendor/pyinterceptor/cli", "lib", "lib/mine", "later", "rules"]
    script = "; ".join(succeeds(f"echo x=1 >{place}/json.py") for place in places)
    code, said, errors = run("rules/app.py", script + "; " + succeeds("touch free"), cwd=project, path=path)
    assert (code, said.split()) == (0, ["no"] * len(places) + ["yes"]), errors


# --- a repository ---


def test_a_repository_gets_commits_and_keeps_its_hooks_and_configuration(project: Path, app: Path) -> None:
    script = f"""
    set -e; {GIT} init -q -b main sub; cd sub; {GIT} commit -q --allow-empty -m sub; cd ..
    {GIT} init -q -b main . ; rm -r .git/hooks; echo one >file; git add file; {GIT} commit -q -m one
    git -c protocol.file.allow=always submodule --quiet add ./sub inner
    git worktree add -q ../{project.name}-tree
    """
    subprocess.run(["sh", "-c", script], check=True, cwd=project)
    try:
        kept = [path for path in project.rglob("*") if path.name in ("config", "commondir", "hooks")]
        attempts = [
            "echo ../evil >.git/commondir",
            "rm .git/commondir",
            "mkdir -p .git/hooks && touch .git/hooks/post-commit",
            "git config core.fsmonitor /bin/false",
            "git -C inner config core.fsmonitor /bin/false",
            "echo ../evil >.git/modules/inner/commondir",
            f"echo ../evil >.git/worktrees/{project.name}-tree/commondir",
            "mv .git/modules .git/old",
        ]
        script = "; ".join(map(succeeds, attempts))
        used = f"set -e; echo two >file; {GIT} commit -qam two; git checkout -q -b more; git gc -q; git status >status"
        code, said, errors = run(app, f"{script}; {used}", cwd=project)
        assert (code, said.split()) == (0, ["no"] * len(attempts)), errors
        outside = subprocess.run(["git", "log", "--format=%s", "more"], cwd=project, capture_output=True, text=True)
        assert outside.stdout == "two\none\n"
        assert not list(project.rglob(".git/commondir"))
        assert not list(project.glob(".git/modules/inner/commondir"))
        assert all(path.exists() for path in kept)
        for attempt in ("echo ../evil >.git/commondir", "git -C inner config core.fsmonitor /bin/false"):  # the control
            assert subprocess.run(["sh", "-c", attempt], cwd=project).returncode == 0
    finally:
        shutil.rmtree(f"{project}-tree", ignore_errors=True)


RENAME = "/usr/bin/python3 -c 'import os; os.rename(\"{0}\", \"{0}.old\")'"  # mv(1) would copy


def test_repositories_below_the_working_directory_are_protected_too(project: Path, app: Path) -> None:
    """A clone, a bare repository, one with its directory elsewhere, and a worktree of one."""
    script = f"""
    set -e; {GIT} init -q -b main libraries/one; {GIT} -C libraries/one commit -q --allow-empty -m one
    git clone -q --bare libraries/one libraries/two.git
    git init -q --separate-git-dir=elsewhere three
    git -C libraries/one worktree add -q -b other ../tree
    """
    subprocess.run(["sh", "-c", script], check=True, cwd=project)
    repositories = ["libraries/one/.git", "libraries/two.git", "elsewhere"]
    attempts = [f"git --git-dir={place} config core.fsmonitor /bin/false" for place in repositories]
    attempts += [f"touch {place}/hooks/post-checkout" for place in repositories]
    attempts += [f"echo .. >{place}/commondir" for place in repositories]
    attempts += [RENAME.format("libraries"), RENAME.format("libraries/one/.git")]
    attempts += ["echo gitdir: evil >libraries/tree/.git"]
    attempts += ["rm three/.git", "echo .. >libraries/one/.git/worktrees/tree/commondir"]
    used = f"set -e; for place in libraries/one libraries/tree; do {GIT} -C $place commit -q --allow-empty -m two; done"
    used += "; git -C libraries/one push -q ../two.git main; echo text >libraries/file; mv libraries/file file"
    code, said, errors = run(app, f"{'; '.join(map(succeeds, attempts))}; {used}", cwd=project)
    assert (code, said.split()) == (0, ["no"] * len(attempts)), errors
    assert (project / "file").read_text() == "text\n"
    pushed = subprocess.run(["git", "log", "-1", "--format=%s", "main"], cwd=project / "libraries/two.git", stdout=-1)
    assert pushed.stdout == b"two\n"
    assert [path for path in project.rglob("commondir") if "worktrees" not in path.parts] == []
    for attempt in [*attempts[:3], "touch libraries/two.git/hooks/post-checkout", "rm three/.git"]:  # the control
        assert subprocess.run(["sh", "-c", attempt], cwd=project).returncode == 0


def test_a_repository_made_inside_is_the_containers_own(project: Path, app: Path) -> None:
    script = "git init -q made && git -C made config core.fsmonitor false && touch made/.git/hooks/post-commit"
    assert run(app, script, cwd=project) == (0, "", "")


# --- homes and tools ---


CONFIGURE = "test ! -e ~/.config/tool && mkdir -p ~/.config && echo mine >~/.config/tool && cat ~/.config/tool"


def test_a_home_is_writable_private_and_gone_unless_it_is_kept(project: Path, app: Path) -> None:
    secret = Path.home() / ".secret-of-a-test"
    secret.write_text("secret")
    try:
        for _ in range(2):
            assert run(app, CONFIGURE, cwd=project) == (0, "mine\n", "")
            assert run(app, f"test ! -e {secret} && touch {secret}", cwd=project) == (0, "", "")
        assert secret.read_text() == "secret"
    finally:
        secret.unlink()
    assert not (Path.home() / ".config/tool").exists()
    for user in ("root", "nobody"):
        project.chmod(0o777)
        keep = ["--user", user, "--home", "keep"]
        assert run(app, CONFIGURE, *keep, cwd=project) == (0, "mine\n", "")
        assert run(app, "cat ~/.config/tool", *keep, cwd=project) == (0, "mine\n", "")
        assert run(app, "cat ~/.config/tool", *keep, "--state", "another", cwd=project)[0] == 1


def test_a_link_in_a_kept_home_does_not_lead_outside(project: Path, app: Path, tmp_path: Path) -> None:
    """A mount point that we make or own for a later run could be behind it."""
    with tempfile.TemporaryDirectory(prefix=".shown-", dir=Path.home()) as name:
        shown, target = Path(name) / "inner", tmp_path / "target"
        shown.mkdir()
        target.mkdir(mode=0o700)
        keep = ["--home", "keep"]
        assert run(app, f"ln -s {target} {name}", *keep, cwd=project) == (0, "", "")
        code, _, errors = run(app, "true", *keep, "--show", str(shown), cwd=project)
        assert (code, Path(name).name in errors, "must be no link" in errors) == (125, True, True)
        assert list(target.iterdir()) == []
        assert run(app, f"rm {name}", *keep, cwd=project) == (0, "", "")
        assert run(app, f"test -d {shown}", *keep, "--show", str(shown), cwd=project) == (0, "", "")


def test_only_shown_and_writable_paths_are_seen(project: Path, app: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/srv", prefix="shown-") as name:
        (Path(name) / "file").write_text("text")
        assert run(app, f"cat {name}/file", cwd=project)[0] == 1
        shown = run(app, f"cat {name}/file; {succeeds(f'touch {name}/new')}", "--show", name, cwd=project)
        assert shown == (0, "textno\n", "")
        writable = run(app, f"cat {name}/file; {succeeds(f'touch {name}/new')}", "--writable", name, cwd=project)
        assert writable == (0, "textyes\n", "")
        assert (Path(name) / "new").exists()
    code, _, errors = run(app, "true", "--show", "/nonesuch", cwd=project)
    assert (code, errors) == (125, "pyinterceptor: show /nonesuch in the container: no such file or directory\n")


def test_pip_installs_into_the_environment_of_a_project(project: Path, app: Path) -> None:
    index = project / "index/greeting"
    index.mkdir(parents=True)
    wheel = index / "greeting-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("greeting.py", "print('hello')\n")
        archive.writestr("greeting-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n")
        archive.writestr(
            "greeting-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("greeting-1.0.dist-info/RECORD", "")
    (index / "index.html").write_text(f'<a href="{wheel.name}">{wheel.name}</a>')
    script = """
    set -e; /usr/bin/python3 -m venv .venv; . .venv/bin/activate
    pip install -q --disable-pip-version-check --index-url file://$PWD/index greeting; python -m greeting
    """
    assert run(app, script, cwd=project) == (0, "hello\n", "")
    again = subprocess.run([project / ".venv/bin/python", "-m", "greeting"], capture_output=True, text=True)
    assert again.stdout == "hello\n"


def test_npm_installs_a_package(project: Path, app: Path) -> None:
    (project / "package.json").write_text('{"name": "one", "version": "1.0.0"}')
    with tarfile.open(project / "greeting.tgz", "w:gz") as archive:
        for name, text in (
            ("package.json", b'{"name": "greeting", "version": "1.0.0"}'),
            ("index.js", b"console.log('hello')"),
        ):
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    install = "npm install --offline --silent --no-audit --no-update-notifier ./greeting.tgz"  # else it asks outside
    script = f"{install} && node -e 'require(\"greeting\")'"
    assert run(app, script, cwd=project) == (0, "hello\n", "")
    assert (project / "node_modules/greeting/index.js").exists()


# --- one container a directory ---


@contextmanager
def running(app: Path, *options: str, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """Keeps a container running during the block."""
    argv = [sys.executable, "-m", "pyinterceptor", "run", *options, str(app), "--", "sh", "-c", "echo up; cat"]
    environment: Any = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True, cwd=cwd, env=environment) as first:
        assert first.stdin is not None
        assert first.stdout is not None
        assert first.stdout.readline() == "up\n"
        yield first
        first.stdin.close()
        assert first.wait() == 0


def test_a_second_run_in_a_directory_is_refused_and_names_the_first(project: Path, app: Path) -> None:
    (project / "below").mkdir()
    with running(app, cwd=project) as first:
        for place in (project, project / "below"):
            code, _, errors = run(app, "true", cwd=place)
            assert (code, errors) == (
                125,
                f"pyinterceptor: use {place} as working directory: container 'run' of process {first.pid}"
                f" has {project}; choose another\n",
            )
        with tempfile.TemporaryDirectory() as other:
            assert run(app, "true", cwd=Path(other)) == (0, "", "")
    assert run(app, "true", cwd=project) == (0, "", "")


def test_a_writable_path_is_for_one_run_at_a_time_and_the_error_names_the_first(project: Path, app: Path) -> None:
    places = [project / name for name in ("first", "second", "shared/inner", "another")]
    for place in places:
        place.mkdir(parents=True)
    one, two, inner, another = places
    shared, writable = inner.parent, "--writable"
    with running(app, "--writable", str(shared), "--home", "keep", cwd=one) as first:
        holder = f"container 'run' of process {first.pid} has"
        refused = [
            ([writable, str(shared)], f"use {shared} as writable path: {holder} {shared}"),
            ([writable, str(another), writable, str(inner)], f"use {inner} as writable path: {holder} {shared}"),
            ([writable, str(one)], f"use {one} as writable path: {holder} {one}"),
            (["--workdir", str(inner)], f"use {inner} as working directory: {holder} {shared}"),
        ]
        for options, complaint in refused:
            code, _, errors = run(app, "true", *options, cwd=two)
            assert (code, errors) == (125, f"pyinterceptor: {complaint}; choose another\n")
        assert " as home: container 'run' of process " in run(app, "true", "--home", "keep", cwd=two)[2]
        assert run(app, "true", "--show", str(shared), "--writable", str(another), cwd=two) == (0, "", "")
    inside = ["--writable", str(two / "below"), "--writable", str(shared), "--home", "keep"]
    (two / "below").mkdir()
    assert run(app, f"touch below/file {inner}/file", *inside, cwd=two) == (0, "", "")
