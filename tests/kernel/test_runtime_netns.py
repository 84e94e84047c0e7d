"""The abilities of a container of the embedded runtime, and the attempts that are refused to it.

Every attempt has a control: the same attempt from outside, or an allowed one inside.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio

from pyinterceptor.errors import RuntimeFailure
from pyinterceptor.runtime import CommandNotRun, Files, Finished, NetnsRuntime, execute, open_netns_container

T = TypeVar("T")
PYTHON = "/usr/bin/python3"
NOBODY = pwd.getpwnam("nobody")


async def no_network(netns_fd: int) -> None:
    """Does nothing: the container stays unattached."""


def in_container(scenario: Callable[[NetnsRuntime], Awaitable[T]], *, workdir: Path | None = None, **options: Any) -> T:
    options.setdefault("files", Files(workdir))

    async def main() -> T:
        async with open_netns_container(**{"name": "one", "attach": no_network, **options}) as container:
            return await scenario(container)

    return trio.run(main)


def inside(*argv: str, input: bytes | None = None, **options: Any) -> Finished:
    return in_container(lambda container: execute(container, argv, input=input), **options)


def outside(*argv: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(argv, capture_output=True, check=False, **options)


@pytest.fixture
def workdir() -> Iterator[Path]:
    """A world-writable directory, outside pytest's private one."""
    with tempfile.TemporaryDirectory(prefix="container-") as name:
        path = Path(name)
        path.chmod(0o777)
        yield path


# --- commands ---


def test_a_command_gets_input_and_environment_and_gives_output(workdir: Path) -> None:
    async def scenario(container: NetnsRuntime) -> None:
        command = "sh -c 'cat; echo $MINE >&2; exit 3'"
        finished = await execute(container, command, input=b"in", env={"MINE": "x"})
        assert finished == Finished(3, b"in", b"x\n")
        assert (await execute(container, ["echo", "one word"])).text == "one word\n"
        assert (await execute(container, "pwd")).text == f"{workdir}\n"
        assert (await execute(container, "hostname")).text == "a-container\n"
        large = bytes(3_000_000)
        assert (await execute(container, "cat", input=large)).stdout == large
        assert (await execute(container, "true", input=large)).returncode == 0

    in_container(scenario, workdir=workdir, name="a container")


def test_a_command_that_is_not_there_is_127_and_one_that_cannot_run_126(workdir: Path) -> None:
    (workdir / "data").write_text("no program")

    async def scenario(container: NetnsRuntime) -> None:
        assert await execute(container, "nonesuch") == Finished(127, b"", b"run nonesuch: command not found\n")
        assert (await execute(container, "./data")).returncode == 126
        assert (await execute(container, "/etc")).returncode == 126
        with pytest.raises(CommandNotRun, match="nonesuch: command not found"):
            await container.start("nonesuch")
        with pytest.raises(RuntimeFailure, match="run sh: exit code 4: oh"):
            await execute(container, "sh -c 'echo oh >&2; exit 4'", check=True)
        with pytest.raises(RuntimeFailure, match="it is empty"):
            await execute(container, "")
        with pytest.raises(RuntimeFailure, match="No closing quotation"):
            await execute(container, "echo 'x")

    in_container(scenario, workdir=workdir)


def test_a_started_process_is_signalled_and_awaited() -> None:
    async def scenario(container: NetnsRuntime) -> None:
        running = await container.start("sleep 1000")
        assert running.returncode is None
        assert Path(f"/proc/{running.pid}").exists()
        running.terminate()
        assert await running.wait() == 128 + signal.SIGTERM
        await running.aclose()
        echo = await container.start("cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert echo.stdin is not None
        assert echo.stdout is not None
        await echo.stdin.send_all(b"there and back")
        assert await echo.stdout.receive_some(100) == b"there and back"
        await echo.aclose()
        assert echo.returncode == 128 + signal.SIGKILL

    in_container(scenario)


def test_orphans_are_reaped() -> None:
    async def scenario(container: NetnsRuntime) -> None:
        await execute(container, "sh -c '(sleep 0.1 &) ; (sleep 0.2 &)'")
        while b"sleep" in (processes := (await execute(container, "ps -eo stat=,comm=")).stdout):
            assert b"Z" not in processes
        assert processes.count(b"\n") == 2

    in_container(scenario)


def test_cancelling_a_command_kills_it() -> None:
    async def scenario(container: NetnsRuntime) -> None:
        with trio.move_on_after(0.2) as scope:
            await execute(container, "sleep 1000")
        assert scope.cancelled_caught
        assert b"sleep" not in (await execute(container, "ps ax")).stdout

    in_container(scenario)


def test_stopping_ends_everything_inside() -> None:
    async def scenario(container: NetnsRuntime) -> None:
        await execute(container, "sh -c 'sleep 1000 >/dev/null 2>&1 &'")  # an orphan
        running = await container.start("sh -c 'setsid sleep 1000 & sleep 1000'")
        assert (await execute(container, "ps ax")).stdout.count(b"sleep 1000") >= 3
        inside = list(processes_of(os.readlink(f"/proc/{running.pid}/ns/pid")))
        assert len(inside) >= 5
        with trio.fail_after(2):
            await container.stop()
        assert not any(Path(f"/proc/{pid}").exists() for pid in inside if pid != running.pid)
        assert await running.wait() == 128 + signal.SIGKILL
        await running.aclose()
        with pytest.raises(RuntimeFailure, match="the container is stopped"):
            await execute(container, "true")
        await container.stop()

    in_container(scenario)


def test_what_attaches_runs_before_any_process_and_gets_the_network_of_the_container() -> None:
    seen: list[int] = []

    async def attach(netns_fd: int) -> None:
        seen.append(os.fstat(netns_fd).st_ino)
        assert not list(processes_in_network(seen[0]))
        await trio.to_thread.run_sync(
            lambda: subprocess.run(
                ["nsenter", f"--net=/proc/self/fd/{netns_fd}", "ip", "link", "set", "lo", "up"],
                pass_fds=(netns_fd,),
                check=True,
            )
        )

    async def scenario(container: NetnsRuntime) -> None:
        assert (await execute(container, "readlink /proc/self/ns/net")).text == f"net:[{seen[0]}]\n"
        assert list(processes_in_network(seen[0]))
        assert "UP" in (await execute(container, "ip link show lo")).text

    in_container(scenario, attach=attach)


def processes_in_network(inode: int) -> Iterator[str]:
    for link in Path("/proc").glob("[0-9]*/ns/net"):
        with contextlib.suppress(OSError):
            if os.readlink(link) == f"net:[{inode}]":
                yield str(link)


def test_when_attaching_fails_nothing_starts() -> None:
    async def attach(netns_fd: int) -> None:
        raise RuntimeFailure("no attachment")

    with pytest.raises(RuntimeFailure, match="no attachment"):
        inside("true", attach=attach)


KILLED = """
import subprocess, sys, trio
from pyinterceptor.runtime import open_netns_container
async def attach(fd): pass
async def main():
    async with open_netns_container(name="doomed", attach=attach) as container:
        command = "sh -c '(sleep 1000 &); setsid sleep 1000 & echo; wait'"
        running = await container.start(command, stdout=subprocess.PIPE)
        await running.stdout.receive_some(1)
        print(container.pid, running.pid, flush=True)
        await trio.sleep_forever()
trio.run(main)
"""


def test_nothing_inside_outlives_a_kill_of_our_process() -> None:
    owner = subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE)
    with owner, contextlib.ExitStack() as stack:
        stack.callback(owner.kill)
        assert owner.stdout is not None
        pids = [int(word) for word in owner.stdout.readline().split()]
        namespace = os.readlink(f"/proc/{pids[1]}/ns/pid")
        inner = list(processes_of(namespace))
        assert len(inner) == 4  # cat, sh, an orphan and the sleep of another session
        descriptors = [os.pidfd_open(pid) for pid in inner]
        owner.kill()

        async def all_end() -> None:
            with trio.fail_after(10):
                for descriptor in descriptors:
                    await trio.lowlevel.wait_readable(descriptor)

        trio.run(all_end)
        for descriptor in descriptors:
            os.close(descriptor)


def processes_of(namespace: str) -> Iterator[int]:
    for link in Path("/proc").glob("[0-9]*/ns/pid"):
        with contextlib.suppress(OSError):
            if os.readlink(link) == namespace:
                yield int(link.parts[2])


# --- users ---


def test_it_runs_as_the_user_who_invoked_us(monkeypatch: pytest.MonkeyPatch) -> None:
    assert inside("id", "-u").text == f"{os.getuid()}\n"
    monkeypatch.setenv("SUDO_UID", str(NOBODY.pw_uid))
    monkeypatch.setenv("SUDO_GID", str(NOBODY.pw_gid))
    assert inside("id", "-u").text == f"{NOBODY.pw_uid}\n"


def test_it_runs_as_the_user_asked_for() -> None:
    async def scenario(container: NetnsRuntime) -> None:
        assert (await execute(container, "id -u")).text == f"{NOBODY.pw_uid}\n"
        assert (await execute(container, "id -G")).text == f"{NOBODY.pw_gid}\n"
        assert (await execute(container, "sh -c 'echo $HOME $USER'")).text == f"{NOBODY.pw_dir} nobody\n"

    in_container(scenario, user="nobody")
    assert inside("id", "-u", user="4242").text == "4242\n"
    with pytest.raises(RuntimeFailure, match="no such user"):
        inside("true", user="nonesuch")


@pytest.mark.parametrize("user", ["root", "nobody"])
def test_no_process_has_a_capability_or_can_gain_one(user: str) -> None:
    def capabilities(text: str) -> set[int]:
        return {int(line.split()[1], 16) for line in text.splitlines() if line.startswith("Cap")}

    mine = inside("cat", "/proc/self/status", user=user).text
    assert capabilities(mine) == {0}
    assert "NoNewPrivs:\t1" in mine
    assert capabilities(inside("cat", "/proc/1/status", user=user).text) == {0}
    assert capabilities(Path("/proc/self/status").read_text()) != {0}


def test_a_setuid_program_gains_nothing(workdir: Path) -> None:
    program = workdir / "id"
    program.write_bytes(Path("/usr/bin/id").read_bytes())
    program.chmod(0o4755)
    assert inside("./id", "-u", workdir=workdir, user="nobody").text == f"{NOBODY.pw_uid}\n"
    as_nobody = ("setpriv", f"--reuid={NOBODY.pw_uid}", f"--regid={NOBODY.pw_gid}", "--clear-groups")
    assert outside(*as_nobody, str(program), "-u").stdout == b"0\n"


def test_the_environment_that_may_hold_keys_stays_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY_OF_A_HANDLER", "of-a-handler-alone")
    monkeypatch.setenv("LC_TIME", "C.UTF-8")
    said = inside("sh", "-c", "cat /proc/1/environ; env", user="root")
    assert b"/proc/1/environ: Permission denied" in said.stderr
    assert said.text.count("LC_TIME=C.UTF-8") == 1
    assert "of-a-handler-alone" not in said.text
    assert outside("env").stdout.count(b"of-a-handler-alone") == 1


# --- files ---


def test_only_the_working_directory_is_the_hosts_and_writable(workdir: Path) -> None:
    script = f"""
    touch here && touch {workdir}/there && touch /tmp/private /var/tmp/private /dev/shm/private ~/private || exit 1
    for place in / /etc /usr/bin /home /var /var/lib /var/lib/dpkg /var/lib/pyinterceptor /run /sys /proc/sys; do
        touch $place/pyinterceptor-was-here 2>/dev/null && echo $place
    done
    true
    """
    for user in ("root", "nobody"):
        assert inside("sh", "-c", script, workdir=workdir, user=user) == Finished(0, b"", b"")
        assert {path.name for path in workdir.iterdir()} == {"here", "there"}
        for private in ("/tmp", "/var/tmp", "/dev/shm", os.path.expanduser("~")):
            assert not Path(private, "private").exists()
        for path in workdir.iterdir():
            path.unlink()
    probe = Path("/var/tmp/pyinterceptor-was-here")
    probe.touch()  # the control: it works from outside
    probe.unlink()


def test_a_mount_on_the_host_is_hidden_or_shown_read_only() -> None:
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/srv"], check=True)
    try:
        Path("/srv/outside").touch()
        shown = Files(show=(Path("/srv"),))
        assert inside("ls", "/srv").returncode == 2
        assert inside("ls", "/srv", files=shown).text == "outside\n"
        assert b"Read-only file system" in inside("touch", "/srv/inside", files=shown).stderr
        assert os.listdir("/srv") == ["outside"]
    finally:
        subprocess.run(["umount", "/srv"], check=True)


def test_kernel_file_systems_are_hidden_wherever_they_are_mounted(workdir: Path) -> None:
    places = [Path("/srv/a root/proc"), Path("/srv/a root/sys"), workdir / "proc"]
    files = Files(workdir, show=(Path("/srv"),))
    script = 'mkdir -p "$0" && exec mount -t "$1" "$1" "$0"'
    try:
        for place, kind in zip(places, ("proc", "sysfs", "proc"), strict=True):
            subprocess.run(["sh", "-c", script, place, kind], check=True)
            assert outside("ls", str(place)).stdout
            listed = inside("ls", str(place), files=files)
            assert (listed.returncode, listed.stdout) == (0, b"")
        assert b"Read-only" in inside("touch", str(places[2] / "x"), files=files).stderr
    finally:
        for place in places:
            outside("umount", str(place))
        outside("rm", "-r", "/srv/a root")


def test_the_host_tmp_and_shared_memory_are_not_seen(workdir: Path) -> None:
    with tempfile.NamedTemporaryFile(dir="/tmp") as one, tempfile.NamedTemporaryFile(dir="/dev/shm") as two:
        for name in (one.name, two.name):
            assert outside("ls", name).returncode == 0
            assert inside("ls", name).returncode == 2


def test_the_way_up_from_the_working_directory_ends_at_our_root(workdir: Path) -> None:
    script = "import os; os.chdir('../' * 30); print(os.path.samefile('.', '/'), os.listdir('run'), os.listdir('sys'))"
    assert inside(PYTHON, "-c", script, workdir=workdir).text == "True [] []\n"


def test_control_paths_state_and_sys_are_hidden() -> None:
    planted = [Path("/run/pyinterceptor/control-of-a-test"), Path("/var/lib/pyinterceptor/state-of-a-test")]
    for path in planted:
        path.parent.mkdir(exist_ok=True)
        path.write_text("secret")
    try:
        for path in [*planted, Path("/sys/fs/cgroup"), Path("/sys/class/net")]:
            assert outside("ls", str(path)).returncode == 0
            assert inside("ls", str(path)).returncode == 2
            assert inside("ls", f"/var/run/{path.name}").returncode == 2
    finally:
        for path in planted:
            path.unlink()
    assert b"cgroup" not in inside("cat", "/proc/mounts").stdout


OPEN_SETTINGS = """
import os
for directory, names, files in os.walk("/proc"):
    if directory == "/proc":
        names[:] = [name for name in names if not name.isdecimal() and name not in ("self", "thread-self")]
    for name in files:
        path = os.path.join(directory, name)
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            continue
        print(path)
"""


@pytest.mark.parametrize("user", ["root", "nobody"])
def test_no_setting_of_the_kernel_can_be_opened_for_writing(user: str) -> None:
    assert inside(PYTHON, "-c", OPEN_SETTINGS, user=user).text == ""
    outer = outside(PYTHON, "-c", OPEN_SETTINGS).stdout.decode().split()
    assert len(outer) > 500
    assert {"/proc/sys/kernel/core_pattern", "/proc/sys/vm/swappiness", "/proc/sys/net/ipv4/ip_forward"} <= set(outer)


def test_another_working_directory_than_a_hidden_one_is_asked_for() -> None:
    for place in ("/sys", "/proc/self", "/var/lib/pyinterceptor", "/run", "/run/pyinterceptor"):
        with pytest.raises(RuntimeFailure, match="hidden from containers"):
            inside("true", workdir=Path(place))
    with pytest.raises(RuntimeFailure, match="not a directory"):
        inside("true", workdir=Path("/etc/passwd"))
    assert inside("touch", "x", workdir=Path("/")).returncode == 1


def test_resolv_conf_is_ours() -> None:
    assert inside("cat", "/etc/resolv.conf").text == "nameserver 169.254.1.1\n"
    assert inside("cat", "/etc/resolv.conf", nameserver="fe80::1", user="nobody").text == "nameserver fe80::1\n"
    assert Path("/etc/resolv.conf").read_text() != "nameserver 169.254.1.1\n"


LINKED = """
import sys, trio
from pyinterceptor.runtime import execute, open_netns_container
async def attach(fd): pass
async def main():
    async with open_netns_container(name="linked", attach=attach) as container:
        print((await execute(container, "cat /etc/resolv.conf")).text, end="")
        print((await execute(container, "cat /etc/of-the-host")).text, end="")
        print((await execute(container, "touch /etc/written")).returncode)
trio.run(main)
"""


ON_HOST = {
    "a link into /run": "ln -sf ../run/systemd/resolve/stub-resolv.conf",
    "a link to a link into /run": "ln -sf /var/run/resolv.conf",
    "a link to nothing": "ln -sf /var/nowhere/resolv.conf",
    "a link to itself": "ln -sf resolv.conf",
    "a directory": "mkdir",
    "missing": "true",
    "unreadable": "install -m 000 /dev/null",
}


@pytest.mark.parametrize("on_host", ON_HOST)
def test_resolv_conf_is_ours_whatever_the_host_has_there(on_host: str, workdir: Path) -> None:
    script = f"""
    umount /etc/resolv.conf; set -e
    mount -t tmpfs tmpfs {workdir}; cp -a /etc {workdir}; rm {workdir}/etc/resolv.conf
    {ON_HOST[on_host]} {workdir}/etc/resolv.conf
    mount --bind {workdir}/etc /etc; echo kept >/etc/of-the-host; exec "$@"
    """
    ran = outside("unshare", "--mount", "sh", "-c", script, "sh", sys.executable, "-c", LINKED)
    assert ran.stdout.decode().splitlines() == ["nameserver 169.254.1.1", "kept", "1"]


def test_secrets_in_etc_are_not_read_by_root_either() -> None:
    secret, public = Path("/etc/secret-of-a-test"), Path("/etc/public-of-a-test")
    try:
        for path, mode in ((secret, 0o640), (public, 0o644)):
            path.write_text("text")
            path.chmod(mode)
        for path in (secret, Path("/etc/shadow")):
            assert outside("cat", str(path)).stdout
            assert inside("cat", str(path), user="root").stdout == b""
        assert inside("cat", str(public), user="root").text == "text"
    finally:
        for path in (secret, public):
            path.unlink(missing_ok=True)


GIT = "git -c user.name=one -c user.email=one@example.com"


def test_a_repository_is_committed_to_but_its_hooks_and_config_are_not_written(workdir: Path) -> None:
    script = f"""
    set -e; cd {workdir}
    {GIT} init -q -b main . ; echo one >file; git add file; {GIT} commit -q -m one
    git clone -q . {workdir}/other; git remote add origin {workdir}/other
    """
    subprocess.run(["sh", "-c", script], check=True)
    used = f"set -e; echo two >file; {GIT} commit -qam two; git checkout -q -b more; git fetch -q origin; git gc -q"
    assert inside("sh", "-c", used, workdir=workdir, user="root") == Finished(0, b"", b"")
    assert outside("git", "log", "--format=%s", "more", cwd=workdir).stdout == b"two\none\n"
    config = (workdir / ".git/config").read_bytes()
    hooks = sorted((workdir / ".git/hooks").iterdir())
    for attempt in (
        "git config core.fsmonitor /bin/false",
        "echo x >>.git/config",
        "touch .git/hooks/post-checkout",
        "mv .git/hooks .git/old",
        "mv .git old",
        "rm -rf .git/config",
    ):
        assert inside("sh", "-c", attempt, workdir=workdir, user="root").returncode != 0
    assert (workdir / ".git/config").read_bytes() == config
    assert sorted((workdir / ".git/hooks").iterdir()) == hooks
    assert outside("git", "config", "core.fsmonitor", "false", cwd=workdir).returncode == 0  # the control


# --- processes, namespaces, devices ---


def test_processes_of_the_host_are_not_there(workdir: Path) -> None:
    script = """
import ctypes, os, signal, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
PTRACE_SEIZE = 0x4206
def attempts(pid):
    seized = libc.ptrace(PTRACE_SEIZE, pid, None, None) == 0
    try:
        os.kill(pid, 0)
        killed = True
    except ProcessLookupError:
        killed = False
    return [seized, killed, os.path.exists(f"/proc/{pid}")]
own = subprocess.Popen(["sleep", "1000"])
print(attempts(int(sys.argv[1])), attempts(own.pid))
own.kill()
"""
    with subprocess.Popen(["sleep", "1000"]) as host:
        try:
            said = inside(PYTHON, "-c", script, str(host.pid + 100_000)).text
            assert said == "[False, False, False] [True, True, True]\n"
            said = inside(PYTHON, "-c", script, str(host.pid)).text
            own = outside(PYTHON, "-c", script, str(host.pid)).stdout
            assert own == b"[True, True, True] [True, True, True]\n"
            if host.pid > 50:  # no process inside has this number
                assert said == "[False, False, False] [True, True, True]\n"
            names = inside("ps", "-eo", "comm=").text.split()
            assert sorted(names) == ["cat", "ps"]
            assert host.poll() is None
        finally:
            host.kill()


@pytest.mark.parametrize("user", ["root", "nobody"])
def test_no_namespace_can_be_left_or_made(user: str) -> None:
    attempts = [
        ("unshare", "--net", "true"),
        ("unshare", "--mount", "true"),
        ("unshare", "--user", "true"),
        ("nsenter", "--net=/proc/self/ns/net", "true"),
        ("nsenter", "--mount=/proc/self/ns/mnt", "true"),
        ("mount", "-t", "tmpfs", "tmpfs", "/opt"),
        ("umount", "/run"),
    ]
    for attempt in attempts:
        refused = inside(*attempt, user=user)
        assert refused.returncode != 0
        said = refused.stderr.decode().lower()
        assert any(why in said for why in ("not permitted", "permission denied", "superuser")), said
    for attempt in attempts[:5]:
        assert outside(*attempt).returncode == 0
    mine = inside("readlink", "/proc/self/ns/net", user="root").text
    assert mine.startswith("net:[")
    assert mine.strip() != os.readlink("/proc/self/ns/net")


def test_user_namespaces_are_refused_to_every_call_that_makes_them() -> None:
    script = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
def attempt(*call):
    result = libc.syscall(*map(ctypes.c_long, call))
    if result == 0 and call[0] == 56:
        libc._exit(0)
    return errno.errorcode[ctypes.get_errno()] if result == -1 else "made"
NEWUSER, SIGCHLD = 0x10000000, 17
print(attempt(56, NEWUSER | SIGCHLD, 0, 0, 0, 0), attempt(435, 0, 0), attempt(425, 1, 0), attempt(250, 0, -3, 0))
print(attempt(56, SIGCHLD, 0, 0, 0, 0))
"""
    assert inside(PYTHON, "-c", script).text.split() == ["EPERM", "ENOSYS", "ENOSYS", "EPERM", "made"]
    own = outside(PYTHON, "-c", script).stdout.split()
    assert own[:3] == [b"made", b"EINVAL", b"EFAULT"]


def test_sockets_outside_the_network_namespace_are_refused() -> None:
    script = """
import errno, socket, sys
for family in sys.argv[1:]:
    try:
        socket.socket(int(family), socket.SOCK_STREAM).close()
        print("made")
    except OSError as error:
        print(errno.errorcode[error.errno])
"""
    families = [str(int(family)) for family in (socket.AF_VSOCK, socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)]
    assert inside(PYTHON, "-c", script, *families).text.split() == ["EAFNOSUPPORT", "made", "made", "made"]
    assert outside(PYTHON, "-c", script, *families).stdout.split() == [b"made"] * 4


def test_abstract_sockets_of_the_host_are_out_of_reach() -> None:
    script = "import socket, sys; socket.socket(socket.AF_UNIX).connect('\\0' + sys.argv[1])"
    name = f"pyinterceptor-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0" + name)
        listener.listen()
        assert b"ConnectionRefusedError" in inside(PYTHON, "-c", script, name).stderr
        assert outside(PYTHON, "-c", script, name).returncode == 0


def test_devices_are_not_there_and_cannot_be_made(workdir: Path) -> None:
    node = str(workdir / "memory")
    assert b"not permitted" in inside("mknod", node, "c", "1", "1", workdir=workdir).stderr
    assert outside("mknod", node, "c", "1", "1").returncode == 0
    os.chmod(node, 0o666)
    assert b"Permission denied" in inside("head", "-c1", node, workdir=workdir).stderr
    there = set(inside("ls", "/dev").text.split())
    plain = {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm"}
    assert there == plain | {"core", "fd", "stdin", "stdout", "stderr"}
    assert set(os.listdir("/dev")) - there
    assert inside("sh", "-c", "echo x >/dev/null && head -c1 /dev/zero", user="nobody").returncode == 0
