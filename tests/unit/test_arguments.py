"""The arguments of the command line, and its answers that need no container."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import pyinterceptor
from pyinterceptor.cli.main import main, parsed

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("words", "command", "verbose"),
    [
        ("run app.py curl -s url", ["curl", "-s", "url"], False),
        ("run app.py -- curl -s url", ["curl", "-s", "url"], False),
        ("run app.py -v curl -v url", ["curl", "-v", "url"], True),
        ("run app.py curl -v url", ["curl", "-v", "url"], False),
        ("run -v app.py -- curl -s", ["curl", "-s"], True),
        ("run app.py npm run x -- --flag", ["npm", "run", "x", "--", "--flag"], False),
        ("run app.py -v -- a -- b", ["a", "--", "b"], True),
        ("run app.py -- --odd", ["--odd"], False),
    ],
)
def test_the_command_begins_after_two_dashes_or_with_the_first_word(
    words: str, command: list[str], verbose: bool
) -> None:
    options = parsed(words.split())
    assert (options.app, options.command, options.verbose) == ("app.py", command, verbose)


def test_options_are_taken_before_the_app_and_after_it() -> None:
    before, after = ["--env", "A", "--container", "One"], ["--env", "B=1", "--state", "kept"]
    options = parsed(["run", *before, "app.py", *after, "true", "--env", "C"])
    assert (options.env, options.container, options.state) == (["A", "B=1"], "One", "kept")
    assert options.command == ["true", "--env", "C"]


def test_a_call_without_arguments_shows_the_verbs_and_an_app_that_works(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([]) == 0
    said = capsys.readouterr().out
    for word in ("run APP.py COMMAND…", "doctor", "completion", "As root"):
        assert word in said
    lines = said.splitlines()
    first, last = (next(at for at, line in enumerate(lines) if word in line) for word in ("from pyint", "app = App"))
    (tmp_path / "hello.py").write_text("\n".join(line[2:] for line in lines[first : last + 1]))
    found = subprocess.run(
        [sys.executable, "-c", "import hello; print(hello.app.containers[0].__name__)"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert found.stdout == "Sandbox\n", found.stderr


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"pyinterceptor {pyinterceptor.__version__}\n"


COMPLETE = """
source <(cat)
COMP_WORDS=({words}) COMP_CWORD={at}
{function}
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["pyinterceptor", ""], {"run", "doctor", "completion"}),
        (["pyinterceptor", "run", "--co"], {"--container"}),
        (["pyinterceptor", "completion", ""], {"bash", "zsh"}),
        (["pyinterceptor", "run", "exa"], {"examples"}),
    ],
)
def test_bash_completes_verbs_options_and_files(
    words: list[str], expected: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    quoted = " ".join(f"'{word}'" for word in words)
    function = "_shtab_pyinterceptor"
    completing = COMPLETE.format(words=quoted, at=len(words) - 1, function=f"{function} pyinterceptor '{words[-1]}' ''")
    done = subprocess.run(["bash", "-c", completing], input=script, capture_output=True, text=True, cwd=ROOT)
    assert expected <= set(done.stdout.split()), done.stderr


def test_zsh_loads_the_completion(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["completion", "zsh"]) == 0
    (tmp_path / "_pyinterceptor").write_text(capsys.readouterr().out)
    script = f"fpath=({tmp_path} $fpath); autoload -U compinit; compinit -D; echo $_comps[pyinterceptor]"
    done = subprocess.run(["zsh", "-f", "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("_pyinterceptor\n", "")


@pytest.mark.parametrize(
    ("text", "count"), [("65536", 65536), ("512K", 512 << 10), ("64M", 64 << 20), ("64m", 64 << 20), ("2G", 2 << 30)]
)
def test_a_size_is_a_count_of_bytes_or_has_a_unit(text: str, count: int) -> None:
    options = parsed(["run", "--memory", text, "--tmp", text, "--pids", "64", "--cpu", "0.5", "app.py", "true"])
    assert (options.memory, options.tmp, options.pids, options.cpu) == (count, count, 64, 0.5)


@pytest.mark.parametrize("wrong", ["", "M", "64X", "1.5G"])
def test_a_wrong_size_is_refused(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed(["run", "--memory", wrong, "app.py", "true"])
    assert "argument --memory: invalid size value" in capsys.readouterr().err
