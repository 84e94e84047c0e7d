"""A small seccomp filter (seccomp(2)) against system calls that no container may make, under any user.

It refuses calls that namespaces don't confine: sockets outside of network namespaces (AF_VSOCK reaches the hypervisor
past every veth), terminal input injection, user namespaces, the host's keyrings, and BPF. It also refuses io_uring and
foreign system-call tables, through which the same calls would bypass the filter. All other calls are allowed.

In the embedded runtime it also refuses set-user-ID and set-group-ID bits: the host could execute such a file.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import stat
import struct
from typing import Any

from pyinterceptor.errors import RuntimeFailure
from pyinterceptor.runtime.namespaces import CLONE_NEWUSER

PR_SET_NO_NEW_PRIVS = 38
PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2

# AUDIT_ARCH_* of <linux/audit.h>, and the numbers of the system calls in that architecture's table.
TABLES = {
    "x86_64": (
        0xC000003E,
        {
            "ioctl": 16,
            "socket": 41,
            "clone": 56,
            "unshare": 272,
            "clone3": 435,
            "io_uring_setup": 425,
            "add_key": 248,
            "request_key": 249,
            "keyctl": 250,
            "bpf": 321,
        },
    ),
    "aarch64": (
        0xC00000B7,
        {
            "ioctl": 29,
            "socket": 198,
            "clone": 220,
            "unshare": 97,
            "clone3": 435,
            "io_uring_setup": 425,
            "add_key": 217,
            "request_key": 218,
            "keyctl": 219,
            "bpf": 280,
        },
    ),
}
# The calls that set a file's mode, and the position of that argument. These bits are refused in it.
MODES = {
    "x86_64": (
        {"open": (2, 2), "openat": (257, 3), "creat": (85, 1)},
        {"chmod": (90, 1), "fchmod": (91, 1), "fchmodat": (268, 2), "mknod": (133, 1), "mknodat": (259, 2)},
    ),
    "aarch64": (
        {"openat": (56, 3)},
        {"fchmod": (52, 1), "fchmodat": (53, 2), "mknodat": (33, 2)},
    ),
}
SET_ID = stat.S_ISUID | stat.S_ISGID
CREATING = os.O_CREAT | (os.O_TMPFILE & ~os.O_DIRECTORY)  # flags with which open(2) reads its mode
POINTED = {"openat2": 437, "fchmodat2": 452}  # on every architecture
X32 = 0x40000000  # this bit of a call's number selects the x32 table, whose architecture is also x86-64
TIOCSTI = 0x5412
TIOCLINUX = 0x541C
FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)

LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # BPF_LD|W|ABS, BPF_JMP|J*|K, BPF_RET|K
ALLOW = 0x7FFF0000
ERRNO = 0x00050000
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data, bytes


def compile_filter(machine: str) -> bytes:
    """Returns the filter as an array of struct sock_filter. Raises RuntimeFailure if the machine is not in TABLES."""
    if machine not in TABLES:
        raise RuntimeFailure(f"confine the container: no system-call filter for {machine}")
    architecture, calls = TABLES[machine]
    program = [
        _op(LOAD, ARCHITECTURE),
        _op(EQUAL, architecture, 1, 0),
        _refuse(errno.ENOSYS),
        _op(LOAD, NUMBER),
        _op(AT_LEAST, X32, 0, 1),
        _refuse(errno.ENOSYS),
    ]
    # The flags of clone3 are behind a pointer, which a filter can't follow. ENOSYS makes the C library use clone.
    for name in ("clone3", "io_uring_setup"):
        program += [_op(EQUAL, calls[name], 0, 1), _refuse(errno.ENOSYS)]
    for name in ("add_key", "request_key", "keyctl", "bpf"):
        program += [_op(EQUAL, calls[name], 0, 1), _refuse(errno.EPERM)]
    for name in ("clone", "unshare"):
        program += _when(calls[name], 0, [_op(ANY_BIT, CLONE_NEWUSER, 0, 1), _refuse(errno.EPERM)])
    injections = [
        op for request in (TIOCSTI, TIOCLINUX) for op in (_op(EQUAL, request, 0, 1), _refuse(errno.EPERM))
    ]
    program += _when(calls["ioctl"], 1, injections)
    families = [op for family in FAMILIES for op in (_op(EQUAL, family, 0, 1), _op(RETURN, ALLOW))]
    program += _when(calls["socket"], 0, [*families, _refuse(errno.EAFNOSUPPORT)])
    program += _without_set_id(machine)
    program.append(_op(RETURN, ALLOW))
    return b"".join(program)


def _without_set_id(machine: str) -> list[bytes]:
    """Returns the rules against set-user-ID and set-group-ID bits. Without such a mode, the calls are allowed.

    openat2 has its mode behind a pointer. fchmodat2 is newer than the C libraries that need it, which fall back.
    """
    program = [op for call in POINTED.values() for op in (_op(EQUAL, call, 0, 1), _refuse(errno.ENOSYS))]
    opening, changing = MODES[machine]
    refusal = [_op(ANY_BIT, SET_ID, 0, 1), _refuse(errno.EPERM)]
    for name, (call, mode) in opening.items():
        body = refusal
        if name != "creat":
            flags = _op(LOAD, ARGUMENTS + 8 * (mode - 1))
            body = [flags, _op(ANY_BIT, CREATING, 0, 3), _op(LOAD, ARGUMENTS + 8 * mode), *refusal]
        program += _when(call, mode, body)
    for call, mode in changing.values():
        program += _when(call, mode, refusal)
    return program


def narrow(profile: dict[str, Any]) -> dict[str, Any]:
    """Returns a copy of podman's profile (containers-seccomp.json(5)) without the calls that the filter refuses."""
    _, calls = TABLES["x86_64"]
    rules = []
    for rule in profile["syscalls"]:
        names = [name for name in rule["names"] if name == "ioctl" or name not in calls]
        rules += [{**rule, "names": names}] if names else []
    for family in FAMILIES:
        rules.append(_allowed("socket", {"index": 0, "value": int(family), "op": "SCMP_CMP_EQ"}))
    for name in ("clone", "unshare"):
        no_user_namespace = {"index": 0, "value": CLONE_NEWUSER, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
        rules.append(_allowed(name, no_user_namespace))
    # No 32-bit tables: a filter can't check a socketcall(2), because its arguments are in memory.
    native = [{**entry, "subArchitectures": []} for entry in profile["archMap"]]
    return {**profile, "archMap": native, "syscalls": rules}


def _allowed(name: str, where: dict[str, Any]) -> dict[str, Any]:
    return {"names": [name], "action": "SCMP_ACT_ALLOW", "args": [where]}


def install_filter() -> None:
    """Sets no_new_privs and the filter on the calling thread. Neither can be undone, and its children inherit both.

    Raises RuntimeFailure if the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    program = ctypes.create_string_buffer(compile_filter(platform.machine()))
    length = (len(program) - 1) // 8
    filter_ = struct.pack("HxxxxxxP", length, ctypes.addressof(program))
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise RuntimeFailure(f"set no_new_privs: {os.strerror(ctypes.get_errno())}")
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.c_char_p(filter_), 0, 0) != 0:
        raise RuntimeFailure(f"install the system-call filter: {os.strerror(ctypes.get_errno())}")


def _op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


def _refuse(error: int) -> bytes:
    return _op(RETURN, ERRNO | error)


def _when(call: int, argument: int, body: list[bytes]) -> list[bytes]:
    """Returns a rule for `call`. `body` checks the low word of one argument; unless it returns, the next rule runs."""
    return [
        _op(EQUAL, call, 0, len(body) + 2),
        _op(LOAD, ARGUMENTS + 8 * argument),
        *body,
        _op(LOAD, NUMBER),
    ]
