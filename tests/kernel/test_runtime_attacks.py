"""A hostile process in an attached container tries to escape, as uid 0 inside and as the user nobody.

The same attempts are made from outside, where each of them succeeds. So a refusal is due to the container, and not to
the machine.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from pyinterceptor.capture.gateway.gateway import open_gateway
from pyinterceptor.paths import RUN
from pyinterceptor.runtime import Files, execute, open_netns_container

PYTHON = "/usr/bin/python3"
USERS = pytest.mark.parametrize("user", ["root", "nobody"])
# The script that follows defines the functions in `attempts`. The result of each is "done", or the name of its error.
TRY = """
import ctypes, errno, json, os, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    result = libc.syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result
def tell(attempts):
    told = {}
    for attempt in attempts:
        try:
            attempt()
            told[attempt.__name__] = "done"
        except OSError as error:
            told[attempt.__name__] = errno.errorcode[error.errno]
    print(json.dumps(told))
"""


@pytest.fixture
def workdir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="attack-") as name:
        path = Path(name)
        path.chmod(0o777)
        yield path


def attempts_inside(
    script: str, *arguments: str, instance: str, workdir: Path | None = None, **options: Any
) -> dict[str, str]:
    """Makes the attempts in an attached container. Returns the result of each by its name."""

    async def main() -> dict[str, str]:
        async with open_gateway(instance, v6=True) as gateway:
            attachment = gateway.reserve(1)
            opened: Any = {"attach": partial(gateway.attach, attachment), "files": Files(workdir), **options}
            async with open_netns_container(name="hostile", **opened) as container:
                finished = await execute(container, [PYTHON, "-c", TRY + script, *arguments], check=True)
            await gateway.detach(attachment)
        told: dict[str, str] = json.loads(finished.stdout)
        return told

    return trio.run(main)


def attempts_outside(script: str, *arguments: str) -> dict[str, str]:
    """Makes the same attempts as root, in a new network namespace."""
    argv = ["unshare", "--net", "--mount", PYTHON, "-c", TRY + script, *arguments]
    told: dict[str, str] = json.loads(subprocess.run(argv, capture_output=True, check=True).stdout)
    return told


SETTINGS = """
import subprocess
def change(*words):
    def attempt():
        done = subprocess.run(["ip", *words], capture_output=True, text=True)
        if "Operation not permitted" in done.stderr:
            raise PermissionError(errno.EPERM, "")
        assert done.returncode == 0, done.stderr
    attempt.__name__ = " ".join(words)
    return attempt
tell([
    change("address", "add", "100.96.0.77/32", "dev", device),
    change("-6", "address", "add", "2001:db8::77/128", "dev", device),
    change("route", "add", "203.0.113.77/32", "dev", device),
    change("link", "set", device, "address", "02:00:00:00:00:77"),
    change("neighbour", "add", "169.254.1.77", "lladdr", "02:00:00:00:00:77", "dev", device),
    change("rule", "add", "priority", "7", "table", "77"),
    change("link", "add", "more", "type", "veth"),
    change("link", "set", device, "down"),
])
"""


@USERS
def test_its_addresses_routes_and_links_are_not_its_to_change(user: str, instance: str) -> None:
    script = 'device = next(name for _, name in socket.if_nameindex() if name != "lo")\n' + SETTINGS
    told = attempts_inside(script, instance=instance, user=user)
    assert set(told.values()) == {"EPERM"}
    made = 'import subprocess\nsubprocess.run("ip link add eth0 up type veth".split(), check=True)\ndevice = "eth0"\n'
    outer = attempts_outside(made + SETTINGS)
    assert set(outer.values()) == {"done"}
    assert outer.keys() == told.keys()


SOCKETS = """
def packet(): socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)).close()
def raw(): socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()
def raw6(): socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6).close()
def vsock(): socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).close()
def algorithm(): socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET).close()
def transparent():
    with socket.socket() as one:
        one.setsockopt(socket.IPPROTO_IP, 19, 1)
        one.bind(("203.0.113.10", 8080))
def mark():
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, 36, 1)
def stream(): socket.socket().close()
def datagram(): socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close()
tell([packet, raw, raw6, vsock, algorithm, transparent, mark, stream, datagram])
"""


@USERS
def test_it_gets_no_socket_that_speaks_past_the_rules(user: str, instance: str) -> None:
    assert attempts_inside(SOCKETS, instance=instance, user=user) == {
        "packet": "EAFNOSUPPORT",
        "raw": "EPERM",
        "raw6": "EPERM",
        "vsock": "EAFNOSUPPORT",
        "algorithm": "EAFNOSUPPORT",
        "transparent": "EPERM",
        "mark": "EPERM",
        "stream": "done",
        "datagram": "done",
    }
    outer = attempts_outside(SOCKETS)
    assert {name for name, what in outer.items() if what == "done"} == outer.keys() - without_alg(outer)


def without_alg(told: dict[str, str]) -> set[str]:
    """Omits AF_ALG if this kernel doesn't support it."""
    return {"algorithm"} if told["algorithm"] == "EAFNOSUPPORT" else set()


GATEWAY = """
state = sys.argv[1]
def list_state(): os.listdir(state)
def open_gateway(): os.close(os.open(state + "/gateway", os.O_RDONLY))
def open_pin():
    path = ctypes.create_string_buffer((state + "/bpf/containers").encode())
    attributes = ctypes.create_string_buffer(struct.pack("QII", ctypes.addressof(path), 0, 0), 128)
    os.close(call(321, 7, attributes, 16))
def make_map():
    attributes = ctypes.create_string_buffer(struct.pack("IIIII", 2, 4, 8, 1, 0), 128)
    os.close(call(321, 0, attributes, 20))
def mount_pins(): call(165, b"bpf", b"/tmp", b"bpf", 0, 0)
def enter_another():
    mine = os.readlink("/proc/self/ns/net")
    for name in os.listdir("/proc"):
        if name.isdecimal() and os.path.exists(f"/proc/{name}/ns/net"):
            fd = os.open(f"/proc/{name}/ns/net", os.O_RDONLY)
            if os.readlink(f"/proc/{name}/ns/net") != mine:
                libc.setns(fd, 0)
                return
    raise FileNotFoundError(errno.ENOENT, "")
tell([list_state, open_gateway, open_pin, make_map, mount_pins, enter_another])
"""


@USERS
def test_the_gateway_and_its_pins_are_out_of_reach(user: str, instance: str) -> None:
    state = str(RUN / instance)
    told = attempts_inside(GATEWAY, state, instance=instance, user=user)
    assert told.pop("enter_another") in ("ENOENT", "EACCES")  # EACCES is for process 1
    assert told == {
        "list_state": "ENOENT",
        "open_gateway": "ENOENT",
        "open_pin": "EPERM",
        "make_map": "EPERM",
        "mount_pins": "EPERM",
    }

    async def beside_a_gateway() -> dict[str, str]:
        async with open_gateway(instance, v6=True):
            return await trio.to_thread.run_sync(attempts_outside, GATEWAY, state)

    assert set(trio.run(beside_a_gateway).values()) == {"done"}


MOUNTS = """
os.makedirs("made/old", exist_ok=True)
class Handle(ctypes.Structure):
    _fields_ = [("size", ctypes.c_uint), ("type", ctypes.c_int), ("handle", ctypes.c_ubyte * 128)]
def new_proc(): call(165, b"proc", b"made", b"proc", 0, 0)
def writable_root(): call(165, 0, b"/", 0, 32 | 4096, 0)
def bind(): call(165, b"/", b"made", 0, 4096, 0)
def unmount(): call(166, b"/proc", 2)
def fsopen(): os.close(call(430, b"tmpfs", 0))
def open_tree(): os.close(call(428, -100, b"/", 1))
def by_handle():
    handle, mount_id = Handle(128), ctypes.c_int()
    call(303, -100, b"/etc/passwd", ctypes.byref(handle), ctypes.byref(mount_id), 0)
    place = os.open("/etc", os.O_RDONLY)
    os.close(call(304, place, ctypes.byref(handle), 0))
def chroot(): os.chroot("made")
tell([new_proc, unmount, writable_root, bind, fsopen, open_tree, by_handle, chroot])
"""


@USERS
def test_nothing_can_be_mounted_and_no_file_opened_by_its_handle(
    user: str, instance: str, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = attempts_inside(MOUNTS, instance=instance, user=user, workdir=workdir)
    assert set(told.values()) == {"EPERM"}
    monkeypatch.chdir(workdir)
    order = "tell([new_proc, bind, fsopen, open_tree, by_handle, chroot])"
    outer = attempts_outside(MOUNTS[: MOUNTS.index("tell(")] + order)
    assert set(outer.values()) == {"done"}


DISKS = """
major, minor = map(int, sys.argv[1:])
def make(path):
    os.mknod(path, 0o60666, os.makedev(major, minor))
    os.close(os.open(path, os.O_RDONLY))
def made_here(): make("made-here")
def made_in_tmp(): make(f"/tmp/disk-{os.getpid()}")
def of_the_host(): os.close(os.open("/dev/disk-of-a-test", os.O_RDONLY))
def found(): os.close(os.open("found", os.O_RDONLY))
tell([made_here, made_in_tmp, of_the_host, found])
"""
LOOP = (7, 0)  # a block device that root can open even on a machine that hides its disks


@USERS
def test_disks_are_out_of_reach(
    user: str, instance: str, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [workdir / "found", Path("/dev/disk-of-a-test")]
    monkeypatch.chdir(workdir)
    try:
        for node in nodes:
            os.mknod(node, 0o60666, os.makedev(*LOOP))
            node.chmod(0o666)
        assert attempts_inside(DISKS, *map(str, LOOP), instance=instance, user=user, workdir=workdir) == {
            "made_here": "EPERM",
            "made_in_tmp": "EPERM",
            "of_the_host": "ENOENT",
            "found": "EACCES",
        }
        assert set(attempts_outside(DISKS, *map(str, LOOP)).values()) == {"done"}
    finally:
        for node in (nodes[1], *Path("/tmp").glob("disk-*")):
            node.unlink()


HOLD = """
import signal, subprocess
one = len(sys.argv) > 1
process = None if one else subprocess.Popen(["cat"], stdin=subprocess.PIPE)
pid = 1 if one else process.pid
def kill(): os.kill(pid, signal.SIGSTOP)
def trace(): call(101, 0x4206, pid, 0, 0)  # PTRACE_SEIZE
def hold_its_pipe(): os.close(os.open(f"/proc/{pid}/fd/0", os.O_WRONLY))
def take_its_pipe(): os.close(call(438, os.pidfd_open(pid), 0, 0))
def change_its_memory(): os.close(os.open(f"/proc/{pid}/mem", os.O_WRONLY))
tell([kill, trace, hold_its_pipe, take_its_pipe, change_its_memory])
if process:
    os.kill(pid, signal.SIGKILL)  # Popen.kill takes a traced, stopped process for an ended one
"""


@USERS
def test_the_process_that_ends_with_us_is_not_its_to_stop(user: str, instance: str) -> None:
    """The control: the same attempts on a process of one's own."""
    refused = {"kill": "EPERM", "trace": "EPERM", "take_its_pipe": "EPERM"}
    refused |= {"hold_its_pipe": "EACCES", "change_its_memory": "EACCES"}
    assert attempts_inside(HOLD, "1", instance=instance, user=user) == refused
    assert set(attempts_inside(HOLD, instance=instance, user=user).values()) == {"done"}


RUN_AS_A_SCRIPT = """
import os, signal, sys, trio
from pyinterceptor.runtime import open_netns_container, run_inherited
async def attach(fd): pass
async def main():
    async with open_netns_container(name="hostile", attach=attach, user="root") as container:
        return await run_inherited(container, sys.argv[1:])
print(trio.run(main), flush=True)
"""
GROUP_ATTACK = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.kill(0, signal.SIGTERM)
os.setpriority(os.PRIO_PGRP, 0, 7)
os.kill(0, signal.SIGKILL)
"""


@pytest.mark.parametrize("where", ["inside", "outside"])
def test_signalling_its_process_group_reaches_neither_us_nor_who_called_us(where: str) -> None:
    """The control: run directly, the same script also kills the shell that called it."""
    attack = [PYTHON, "-c", GROUP_ATTACK]
    ours = [sys.executable, "-c", RUN_AS_A_SCRIPT] if where == "inside" else []
    argv = ["sh", "-c", '"$@"; echo "went on"; cat /proc/self/stat', "sh", *ours, *attack]
    ran = subprocess.run(argv, capture_output=True, start_new_session=True, check=False)
    if where == "outside":
        assert ran.returncode == -signal.SIGTERM
        return
    lines = ran.stdout.decode().splitlines()
    assert lines[:2] == [str(128 + signal.SIGKILL), "went on"]
    assert lines[2].rpartition(")")[2].split()[16] == "0"  # nice, proc(5)


PLANTED = """#!/bin/sh
grep CapEff /proc/self/status
id -u
"""


def test_programs_and_libraries_that_it_plants_are_run_as_itself_at_most(workdir: Path) -> None:
    """The caller of a later command has the working directory in PATH and in LD_PRELOAD."""
    library = workdir / "planted.c"
    library.write_text(
        "#include <fcntl.h>\n#include <unistd.h>\n"
        "__attribute__((constructor)) static void loaded(void) {\n"
        '  int fd = open("/proc/self/status", O_RDONLY); char text[4096]; long size = read(fd, text, sizeof text);\n'
        '  fd = open("loaded", O_WRONLY | O_CREAT | O_APPEND, 0666); if (write(fd, text, size) < 0) _exit(9);\n}\n'
    )
    planted = workdir / "planted.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(planted), str(library)], check=True)
    names = ("setpriv", "env", "sh", "bwrap", "id-of-mine")
    for name in names:
        (workdir / name).write_text(PLANTED)
        (workdir / name).chmod(0o755)
    environment = {"PATH": f"{workdir}:/usr/bin:/bin", "LD_PRELOAD": str(planted)}

    async def attach(netns_fd: int) -> None:
        """Does nothing: the container stays unattached."""

    async def main() -> None:
        options: Any = {"user": "nobody", "files": Files(workdir)}
        async with open_netns_container(name="planted", attach=attach, **options) as container:
            found = (await execute(container, "id-of-mine", env=environment)).text
            assert found == "CapEff:\t0000000000000000\n65534\n"

    trio.run(main)
    loaded = (workdir / "loaded").read_text()
    assert loaded.count("CapEff:\t0000000000000000") == loaded.count("CapEff") >= 3  # the script, grep and id
    assert loaded.count("Uid:\t65534\t65534\t65534\t65534") == loaded.count("Uid:")
    direct = subprocess.run(
        ["setpriv", "--reuid=0", "id-of-mine"], env=environment, capture_output=True, text=True, cwd=workdir, check=True
    )
    assert direct.stdout.splitlines()[-1] == "0"
    assert "CapEff:\t0000000000000000" not in direct.stdout


SET_ID = """
import platform, stat
x86 = platform.machine() == "x86_64"
at = -100
def name(text): return ctypes.c_char_p(f"{text}-of-a-test".encode())
def made(text, mode=0o755):
    os.close(os.open(f"{text}-of-a-test", os.O_CREAT | os.O_WRONLY, mode))
    return f"{text}-of-a-test"
bits = int(sys.argv[1], 8)
def chmod(): os.chmod(made("chmod"), bits | 0o755)
def fchmod():
    with open(made("fchmod")) as file: os.fchmod(file.fileno(), bits | 0o755)
def fchmodat(): call(268 if x86 else 53, at, ctypes.c_char_p(made("fchmodat").encode()), bits | 0o755)
def creat(): os.close(call(85, name("creat"), bits | 0o755)) if x86 else made("creat", bits | 0o755)
def open_creating(): os.close(call(2, name("open"), os.O_CREAT, bits | 0o755)) if x86 else made("open", bits | 0o755)
def openat_creating(): made("openat", bits | 0o755)
def open_unnamed(): os.close(os.open(".", os.O_TMPFILE | os.O_WRONLY, bits | 0o755))
def mknod(): os.mknod("mknod-of-a-test", stat.S_IFREG | bits | 0o755)
tell([chmod, fchmod, fchmodat, creat, open_creating, openat_creating, open_unnamed, mknod])
"""
BEYOND = """
class How(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]
def openat2():
    how = How(os.O_CREAT | os.O_WRONLY, 0o4755, 0)
    os.close(call(437, -100, ctypes.c_char_p(b"openat2"), ctypes.byref(how), 24))
def fchmodat2(): call(452, -100, ctypes.c_char_p(b"."), 0o4755, 0)
tell([openat2, fchmodat2])
"""


@USERS
@pytest.mark.parametrize("bits", ["04000", "02000", "06000"])
def test_no_file_gets_a_set_user_id_bit(user: str, bits: str, instance: str, workdir: Path) -> None:
    """The controls: the same calls without these bits, and the same calls outside."""
    inside = partial(attempts_inside, SET_ID, instance=instance, user=user, workdir=workdir)
    assert set(inside(bits).values()) == {"EPERM"}
    assert not [path for path in workdir.iterdir() if path.stat().st_mode & 0o6000]
    for path in workdir.iterdir():
        path.unlink()
    assert set(inside("0").values()) == {"done"}
    assert not set(attempts_inside(BEYOND, instance=instance, user=user, workdir=workdir).values()) - {"ENOSYS"}
    assert set(attempts_outside(f"os.chdir('/dev/shm')\n{SET_ID}", bits).values()) == {"done"}
    for path in Path("/dev/shm").glob("*-of-a-test"):
        path.unlink()
