"""The files of a running instance: a lock, the gateway's namespace and the pins.

An instance holds its lock as long as it lives. Files beside a lock that no process holds are left by a dead instance.
"""

from __future__ import annotations

import fcntl
import os
import socket
from contextlib import suppress
from pathlib import Path

from pyinterceptor.capture.gateway import veth
from pyinterceptor.capture.gateway.namespace import inside, unmount_all
from pyinterceptor.capture.gateway.netlink import open_netlink
from pyinterceptor.errors import CaptureError
from pyinterceptor.paths import NAME_RULE, RUN, InstancePaths, is_name


def state_of(instance: str) -> InstancePaths:
    """Returns the paths of an instance. Raises CaptureError if its name is no valid directory name."""
    if not is_name(instance):
        raise CaptureError(f"instance {instance!r}: {NAME_RULE}")
    return InstancePaths(RUN / instance)


def hold(state: InstancePaths) -> int:
    """Locks the instance, and returns the descriptor that holds the lock. Raises CaptureError if it is locked."""
    while True:
        try:
            state.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(state.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue  # the instance before us was just removing the directory
        except OSError as error:
            raise CaptureError(f"lock {state.lock}: {error.strerror}; pyinterceptor needs root") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(fd)
            raise CaptureError(
                f"instance {state.directory.name!r} is running already; choose another name"
            ) from error
        with suppress(FileNotFoundError):
            if os.stat(state.lock).st_ino == os.fstat(fd).st_ino:
                return fd
        os.close(fd)


def release(state: InstancePaths, lock: int) -> None:
    """Removes the directory and releases the lock."""
    with suppress(FileNotFoundError):
        os.unlink(state.lock)
    with suppress(OSError):  # another process has created a new lock already
        state.directory.rmdir()
    os.close(lock)


def clear(state: InstancePaths) -> None:
    """Removes the interfaces, the namespace and the pins that exist. The caller must hold the lock."""
    _delete_interfaces(state.namespace)
    for path in (state.pins, state.namespace):
        unmount_all(path)
    with suppress(FileNotFoundError):
        state.pins.rmdir()
    with suppress(FileNotFoundError):
        state.namespace.unlink()


def remove_leftovers(instance: str) -> None:
    """Removes the leftovers of a dead instance with this name. Raises CaptureError if it is alive."""
    state = state_of(instance)
    if not state.directory.exists():
        return
    lock = hold(state)
    try:
        clear(state)
    finally:
        release(state, lock)


def free_instance(prefix: str) -> str:
    """Returns a name that no other process uses. Removes leftovers of dead instances with the same prefix."""
    for left in sorted(RUN.glob(f"{prefix}-*")):
        with suppress(CaptureError):
            remove_leftovers(left.name)
    return f"{prefix}-{os.getpid()}"


def _delete_interfaces(namespace: Path) -> None:
    """Deletes the veth pairs, so that the containers' ends are gone on return. The kernel would delete them with the
    namespace, but later."""
    try:
        fd = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        own: socket.socket = inside(fd, open_netlink)
    except CaptureError:
        return  # the instance was killed after it had created the file and before it mounted the namespace
    finally:
        os.close(fd)
    with own:
        veth.detach_all(own)
