"""`pyinterceptor run app.py -- COMMAND…` as a process of its own, in the tests' world."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from pyinterceptor.paths import RUN
from tests.world import ORIGIN_V4, World
from tests.world.image import busybox_image, remove_image

ROOT = Path(__file__).parents[2]
HELLO = str(ROOT / "examples" / "hello.py")
PYINTERCEPTOR = [sys.executable, "-m", "pyinterceptor"]
IMAGE = "pyinterceptor-test-run"
APP = f"""
import asyncio
from pyinterceptor import App, Container, Response

class Closed(Container):
    enable_internet = False

@Closed.outbound_by_host("my.kv")
async def answer(request, env, ctx):
    return Response(ctx.class_name + " " + await request.text())

class Open(Container):
    pass

class InImage(Closed):
    image = "{IMAGE}"

class InNone(Closed):
    image = "localhost/pyinterceptor-nonesuch"

app = App(containers=[Closed, Open, InImage, InNone])
"""
TIME = 60.0  # seconds; nothing here takes nearly as long


@pytest.fixture
def app(tmp_path: Path) -> str:
    path = tmp_path / "app.py"
    path.write_text(APP)
    return str(path)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Asserts that a run has left no state when it has ended."""
    yield
    assert list(RUN.glob("run-*")) == []


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory from which no code is loaded, so that it is writable."""
    with tempfile.TemporaryDirectory(prefix="run-") as name:
        monkeypatch.chdir(name)
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        yield Path(name)


def run(*arguments: str, prefix: Sequence[str] = (), **options: Any) -> subprocess.CompletedProcess[bytes]:
    command = [*prefix, *PYINTERCEPTOR, "run", *arguments]
    return subprocess.run(command, capture_output=True, check=False, timeout=TIME, **options)


def said(ran: subprocess.CompletedProcess[bytes]) -> str:
    """Returns the only line on standard error of a run that failed before its command."""
    lines = ran.stderr.decode().splitlines()
    assert len(lines) == 1, lines
    assert ran.stdout == b""
    return lines[0]


# --- the command ---


def test_the_example_prints_hello_and_an_unknown_key_is_404(world: World) -> None:
    ran = run(HELLO, "--", "curl", "-s", "http://my.kv/greeting")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"hello", b"")
    status = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}"]
    assert run(HELLO, "--", *status, "http://my.kv/unknown").stdout == b"404"
    assert run(HELLO, "--", *status, "-d", "x", "http://origin.test/").stdout == b"405"
    assert run(HELLO, "--", *status, "http://origin.test/who").stdout == b"200"


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("exit 0", 0),
        ("exit 3", 3),
        ("exit 125", 125),
        ("kill -TERM $$", 128 + signal.SIGTERM),
        ("kill -KILL $$", 128 + signal.SIGKILL),
    ],
)
def test_the_exit_code_is_the_commands(command: str, code: int, app: str) -> None:
    ran = run(app, "--", "sh", "-c", command)
    assert (ran.returncode, ran.stdout, ran.stderr) == (code, b"", b"")


def test_processes_that_a_command_left_running_end_with_it(app: str) -> None:
    """The process left running has our standard output, so that `run` can return only after its end."""
    ran = run(app, "--", "sh", "-c", "sleep 1000 & setsid sleep 1000 & exit 3")
    assert (ran.returncode, ran.stdout, ran.stderr) == (3, b"", b"")


def test_a_command_that_cannot_be_run_is_127_or_126(app: str) -> None:
    ran = run(app, "--", "nonesuch")
    assert (ran.returncode, said(ran)) == (127, "pyinterceptor: run nonesuch: command not found")
    ran = run(app, "--", "/etc/passwd")
    assert (ran.returncode, said(ran)) == (126, "pyinterceptor: run /etc/passwd: Permission denied")


def test_standard_streams_pass_through_byte_for_byte_and_apart(app: str) -> None:
    given = bytes(range(256)) * 4000
    ran = run(app, "--", "sh", "-c", "cat; echo complaint >&2", input=given)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, given, b"complaint\n")


def test_a_closed_standard_output_is_the_commands_to_notice(app: str) -> None:
    command = [*PYINTERCEPTOR, "run", app, "--", "yes"]
    shell = ["bash", "-c", '"$@" | head -n 2; echo ${PIPESTATUS[0]}', "bash", *command]
    ran = subprocess.run(shell, capture_output=True, check=True, timeout=TIME)
    assert ran.stdout.split() == [b"y", b"y", str(128 + signal.SIGPIPE).encode()]
    assert ran.stderr == b""


def test_options_after_the_dashes_belong_to_the_command(app: str) -> None:
    assert run(app, "--", "echo", "-v", "--user", "x", "--", "y").stdout == b"-v --user x -- y\n"


def test_the_user_is_the_invoking_one_or_the_named_one(app: str) -> None:
    assert run(app, "--", "id", "-un").stdout == b"root\n"
    assert run("--user", "nobody", app, "--", "id", "-un").stdout == b"nobody\n"
    ran = run("--user", "nonesuch", app, "--", "id")
    assert (ran.returncode, said(ran)) == (125, "pyinterceptor: run as nonesuch: no such user")


def test_a_command_gets_the_named_variables_and_no_secret(app: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", "secret")
    monkeypatch.setenv("WANTED", "ours")
    env = run("--env", "WANTED", "--env", "GIVEN=a=b", app, "--", "env").stdout.decode().splitlines()
    assert {"WANTED=ours", "GIVEN=a=b"} <= set(env)
    assert any(line.startswith("PATH=") for line in env)
    assert "secret" not in str(env)
    ran = run("--env", "NONESUCH", app, "--", "env")
    assert (ran.returncode, said(ran)) == (
        2,
        "pyinterceptor: --env NONESUCH: NONESUCH is not set here; give it a value",
    )


def test_the_container_class_is_the_apps_first_or_the_one_named(app: str, world: World) -> None:
    post = ["curl", "-s", "-m", "20", "-d", "body", "http://my.kv/"]
    assert run(app, "--", *post).stdout == b"Closed body"
    origin = ["curl", "-s", "-m", "20", "http://origin.test/who"]
    assert run("--container", "Open", app, "--", *origin).stdout.startswith(b"origin.test ")
    assert not run(app, "--", *origin).stdout.startswith(b"origin.test ")
    ran = run("--container", "Nonesuch", app, "--", "true")
    assert ran.returncode == 2
    assert said(ran) == (
        "pyinterceptor: the app has no container class 'Nonesuch'; it has: Closed, Open, InImage, InNone"
    )


def test_a_command_runs_in_its_image_and_a_missing_image_is_reported(app: str) -> None:
    busybox_image(IMAGE)
    try:
        ran = run("--container", "InImage", app, "--", "sh", "-c", "cat; wget -qO- http://my.kv/; exit 4", input=b"in ")
        assert (ran.returncode, ran.stdout, ran.stderr) == (4, b"in InImage ", b"")
        assert run("--container", "InImage", app, "--", "nonesuch").returncode == 127
        assert run("--container", "InImage", "--user", "7", app, "--", "id", "-u").stdout == b"7\n"
    finally:
        remove_image(IMAGE)
    ran = run("--container", "InNone", app, "--", "true")
    assert ran.returncode == 125
    assert said(ran).startswith(
        "pyinterceptor: image 'localhost/pyinterceptor-nonesuch' is not on this machine and can't be pulled: "
    )


def test_verbose_prints_a_line_as_a_flow_ends_and_nothing_without_it(app: str, world: World) -> None:
    fetches = [f"curl -s -o /dev/null -m 20 http://{host}/ok" for host in ("my.kv", "origin.test")]
    command = ["bash", "-c", f"{fetches[0]}; read -t 20; echo after >&2"]  # until this test has read both lines
    argv = [*PYINTERCEPTOR, "run", "-v", app, "--", *command]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdin is not None
        assert running.stderr is not None
        assert running.stderr.readline().startswith("pyinterceptor: state is in ")
        for kind in ("request", "flow"):
            assert running.stderr.readline().startswith(f"Closed/run {kind} ")
        running.stdin.close()
        assert running.stderr.read() == "after\n"
    assert run(app, "--", *command, stdin=subprocess.DEVNULL).stderr == b"after\n"
    spliced = run("-v", "--container", "Open", app, "--", *fetches[1].split()).stderr.decode().splitlines()
    assert spliced[-1].startswith("Open/run flow SPLICE HTTP origin.test ")


def test_bytes_that_a_command_sent_before_its_end_still_arrive(app: str, world: World) -> None:
    """All bytes arrive, and the flow's line counts them, although the command waits for no answer."""
    payload = 20_000_000
    script = f"exec 3<>/dev/tcp/{ORIGIN_V4}/9; head -c {payload} /dev/zero >&3"
    ran = run("-v", "--container", "Open", app, "--", "bash", "-c", script)
    assert ran.returncode == 0
    _, line = ran.stderr.decode().splitlines()  # the first says where state is
    assert line.startswith(f"Open/run flow SPLICE OPAQUE - {ORIGIN_V4}:9 ")
    assert f" sent={payload} " in line


# --- what can be wrong ---


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["run"], "required"),
        (["nonesuch"], "invalid choice"),
        (["run", "--nonesuch", "app.py", "--", "true"], "unrecognized arguments: --nonesuch"),
        (["run", "app.py"], "required: COMMAND"),
        (["run", "app.py", "--"], "required: COMMAND"),
    ],
)
def test_bad_usage_is_2_and_the_error_names_the_missing_argument(arguments: list[str], complaint: str) -> None:
    ran = subprocess.run([*PYINTERCEPTOR, *arguments], capture_output=True, check=False, timeout=TIME)
    assert ran.returncode == 2
    assert complaint in ran.stderr.decode()
    assert b"Traceback" not in ran.stderr
    assert ran.stdout == b""


def test_an_app_that_cannot_be_is_2_and_one_sentence_with_its_line(tmp_path: Path) -> None:
    wrong = {
        "def broken(:\n": "wrong.py:1: SyntaxError: invalid syntax",
        "from pyinterceptor import *\n": "wrong.py: defines no App called `app`; write app = App(containers=[…])",
        "\n1 / 0\n": "wrong.py:2: ZeroDivisionError: division by zero",
        "raise ValueError('''two\nlines''')\n": "wrong.py:1: ValueError: two lines",
        APP.replace('"my.kv"', '"my kv"'): "wrong.py:5: Closed: host 'my kv' is not a host name or address",
        APP.replace("    pass", '    local_networks = ["10.0.0.0/99"]'): "wrong.py:12: Open: local_networks: ",
    }
    for text, complaint in wrong.items():
        (tmp_path / "wrong.py").write_text(text)
        ran = run("wrong.py", "--", "true", cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
        assert ran.returncode == 2
        assert said(ran).startswith(f"pyinterceptor: {complaint}")
    ran = run(str(tmp_path / "nonesuch.py"), "--", "true")
    assert (ran.returncode, said(ran)) == (2, f"pyinterceptor: {tmp_path}/nonesuch.py: no such file")


def test_without_root_it_is_125_and_the_error_names_sudo() -> None:
    nobody = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
    ran = run(HELLO, "--", "true", prefix=nobody)
    assert (ran.returncode, said(ran)) == (125, "pyinterceptor: attach a container: needs root; run it with sudo")
    ran = run(HELLO, "--", "true", prefix=["setpriv", "--bounding-set=-bpf,-sys_admin"])
    assert ran.returncode == 125
    assert said(ran).startswith("pyinterceptor: ")


def test_an_unforeseen_error_is_one_sentence_and_a_traceback_with_verbose(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP + "\napp.containers = 7\n")
    ran = run(str(tmp_path / "app.py"), "--", "true")
    assert ran.returncode == 125
    form = r"pyinterceptor: internal error: TypeError: .* \(\w+\.py, line \d+\); run it with -v for the traceback"
    assert re.fullmatch(form, said(ran))
    ran = run("-v", str(tmp_path / "app.py"), "--", "true")
    assert ran.returncode == 125
    assert ran.stderr.startswith(b"Traceback (most recent call last):\n")
    assert ran.stderr.decode().splitlines()[-1].startswith("pyinterceptor: internal error: TypeError: ")


def test_a_handler_that_fails_is_500_to_the_command_and_logged(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP.replace("return Response(ctx", "return Response(ctx.nonesuch"))
    ran = run(str(tmp_path / "app.py"), "--", "curl", "-s", "-w", "%{http_code}", "-o", "/dev/null", "http://my.kv/")
    assert (ran.returncode, ran.stdout) == (0, b"500")
    assert b"AttributeError" in ran.stderr


LEAK = """
from pyinterceptor import Secret
app = App(containers=[Closed], bindings={"TOKEN": Secret.from_env("TOKEN_OF_TEST")})
@Closed.outbound_by_host("secret.test")
async def leak(request, env, ctx):
    print(env.TOKEN, flush=True)
    raise ValueError("the token is " + env.TOKEN.reveal())
"""


@pytest.mark.parametrize("verbose", [(), ("-v",)])
def test_a_handlers_traceback_shows_no_secret(verbose: Sequence[str], tmp_path: Path) -> None:
    path = tmp_path / "app.py"
    path.write_text(APP + LEAK)
    environment = {**os.environ, "TOKEN_OF_TEST": "s3cret-of-test"}
    command = ["sh", "-c", "curl -s http://secret.test/; env"]
    ran = run(*verbose, str(path), "--", *command, env=environment)
    assert b"ValueError: the token is [secret]" in ran.stderr
    assert b"<Secret, environment variable TOKEN_OF_TEST>" in ran.stdout
    assert b"the handler failed" in ran.stdout
    assert b"s3cret" not in ran.stderr + ran.stdout


# --- signals and the terminal ---


class Terminal:
    """The other end of a pty on which a run is the foreground process."""

    def __init__(self, fd: int, process: subprocess.Popen[bytes]) -> None:
        self.fd = fd
        self.process = process
        self.said = b""

    def until(self, text: bytes) -> None:
        """Reads until this text has been printed."""

        async def read() -> None:
            with trio.fail_after(TIME):
                while text not in self.said:
                    await trio.lowlevel.wait_readable(self.fd)
                    self.said += os.read(self.fd, 4096)

        trio.run(read)

    def type(self, keys: bytes) -> None:
        os.write(self.fd, keys)


LEAD = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])"


@contextmanager
def on_terminal(*arguments: str) -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", LEAD, *PYINTERCEPTOR, "run", *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        yield Terminal(ours, process)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_ctrl_c_ends_the_command_and_us_with_its_code(app: str) -> None:
    script = "test -t 0 && test -t 1 && test -t 2 && echo up; exec sleep 1000"
    with on_terminal(app, "--", "sh", "-c", script) as terminal:
        terminal.until(b"up")
        terminal.type(b"\x03")
        assert terminal.process.wait(TIME) == 128 + signal.SIGINT
        assert terminal.said == b"up\r\n"


def test_a_command_on_a_terminal_talks_to_it_and_may_outlive_ctrl_c(app: str) -> None:
    script = "trap 'echo caught' INT; echo up; read word || read word; echo \"got $word\"; exit 9"
    with on_terminal(app, "--", "bash", "-c", script) as terminal:
        terminal.until(b"up")
        terminal.type(b"\x03")
        terminal.until(b"caught")
        terminal.type(b"word\n")
        terminal.until(b"got word")
        assert terminal.process.wait(TIME) == 9


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT"])
def test_a_signal_is_passed_on_to_the_command(name: str, app: str) -> None:
    number = getattr(signal, name)
    script = "import signal, sys, time\nfor n in (1, 2, 3, 15): signal.signal(n, lambda n, f: sys.exit(40 + n))\n"
    script += "print('up', flush=True)\nwhile True: signal.pause()"
    command = [*PYINTERCEPTOR, "run", app, "--", "/usr/bin/python3", "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        try:
            assert running.stdout.readline() == b"up\n"
            running.send_signal(number)
            assert running.wait(TIME) == 40 + number
            assert running.stderr.read() == b""
        finally:
            running.kill()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("there", ["", "lock", "gateway", "bpf/link"])
def test_a_signal_while_starting_ends_us_and_leaves_nothing(there: str, name: str, tmp_path: Path) -> None:
    """The signal comes once the app is loaded, and once each of these files of the instance exists."""
    number = getattr(signal, name)
    path = tmp_path / "app.py"
    path.write_text(APP + "print('loaded', flush=True)\n")
    command = [*PYINTERCEPTOR, "run", str(path), "--", "sleep", "1000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as starting:
        assert starting.stdout is not None
        assert starting.stderr is not None
        assert starting.stdout.readline() == b"loaded\n"
        pause = threading.Event()
        while there and not (RUN / f"run-{starting.pid}" / there).exists():
            assert starting.poll() is None
            pause.wait(0.001)
        starting.send_signal(number)
        assert starting.wait(TIME) in (128 + number, -number)
        assert starting.stderr.read() == b""


def test_nothing_outlives_a_kill_and_the_next_run_cleans_up(app: str) -> None:
    command = [*PYINTERCEPTOR, "run", app, "--", "sh", "-c", "(sleep 1000 &); echo up; exec sleep 1000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"up\n"
        running.kill()
        running.wait()
        assert running.stdout.read() == b""  # the command and its orphan have ended: no process holds the other end
    assert len(list(RUN.glob("run-*"))) == 1
    assert run(app, "--", "curl", "-s", "http://my.kv/").stdout == b"Closed "
