"""Mounts of the calling thread's mount namespace: open_tree(2), mount_setattr(2), move_mount(2).

Python's os module has none of them. All functions raise OSError.
"""

from __future__ import annotations

import ctypes
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pyinterceptor.runtime.namespaces import CLONE_FS, CLONE_NEWNS, unshare

OPEN_TREE, MOVE_MOUNT, MOUNT_SETATTR = 428, 429, 442  # on every architecture
AT_FDCWD, AT_NO_AUTOMOUNT, AT_EMPTY_PATH = -100, 0x800, 0x1000
OPEN_TREE_CLONE = 1
MOVE_MOUNT_F_EMPTY_PATH = 4
MOUNT_ATTR_IDMAP = 0x100000
MS_REC, MS_SLAVE = 1 << 14, 1 << 19

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Mounted:
    """A mount: `root` is the path in the file system that is mounted at `place`, `device` its "major:minor"."""

    root: Path
    place: Path
    device: str
    kind: str
    options: tuple[str, ...]


def read_mounts(mountinfo: str) -> Iterator[Mounted]:
    """Reads a text of /proc/PID/mountinfo, which has a mount before those that lie in it: proc_pid_mountinfo(5)."""
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        _, _, device, root, place, *_ = fields.split()
        kind, _, options = rest.split(" ", 2)
        yield Mounted(Path(_unescaped(root)), Path(_unescaped(place)), device, kind, tuple(options.split(",")))


def mounted() -> list[Mounted]:
    """Returns the calling thread's mounts."""
    return [*read_mounts(Path("/proc/thread-self/mountinfo").read_text())]


def leave_mounts() -> None:
    """Gives the calling thread a mount namespace of its own, in which mounts stay that it makes."""
    unshare(CLONE_NEWNS | CLONE_FS)
    _check(_libc.mount(b"none", b"/", None, MS_REC | MS_SLAVE, None))


def clone(place: Path) -> int:
    """Returns a descriptor of a detached copy of the mount that `place` lies on, with this root."""
    flags = OPEN_TREE_CLONE | os.O_CLOEXEC | AT_NO_AUTOMOUNT
    return _check(_libc.syscall(OPEN_TREE, AT_FDCWD, os.fsencode(place), flags))


def translate_owners(mount: int, namespace: int) -> None:
    """Translates the owners of files in a detached mount by a user namespace, as it translates those of processes.

    EINVAL: the file system can't do that, or the mount does already.
    """
    attributes = struct.pack("QQQQ", MOUNT_ATTR_IDMAP, 0, 0, namespace)
    _check(_libc.syscall(MOUNT_SETATTR, mount, b"", AT_EMPTY_PATH, attributes, len(attributes)))


def move(mount: int, place: Path) -> None:
    """Moves a detached mount to `place`."""
    _check(_libc.syscall(MOVE_MOUNT, mount, b"", AT_FDCWD, os.fsencode(place), MOVE_MOUNT_F_EMPTY_PATH))


def _unescaped(field: str) -> str:
    return re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), field)


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
