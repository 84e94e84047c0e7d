"""A range of uids and gids for a container that runs as root: root inside is a uid of its own outside.

The kernel counts some limits by uid, such as those of inotify(7), epoll(7) and pipe(7). With a uid of its own, a
container can't use up those of the host's root. A user namespace translates the ids of processes, and idmapped mounts
those of files (user_namespaces(7), mount_setattr(2)).
"""

from __future__ import annotations

import logging
import os
import stat
import subprocess
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pyinterceptor.errors import RuntimeFailure
from pyinterceptor.runtime.capabilities import hand_down
from pyinterceptor.runtime.mounts import clone, leave_mounts, mounted, move, translate_owners
from pyinterceptor.runtime.namespaces import CLONE_NEWUSER, setns
from pyinterceptor.runtime.slots import FIRST_UID, UIDS, open_slot
from pyinterceptor.runtime.user import User

log = logging.getLogger("pyinterceptor")

# Limits count for the namespace's creator too, which is therefore the range's root. With this capability, it needs no
# setting by which the host lets every user make namespaces.
CREATOR = ("--clear-groups", "--inh-caps=+sys_admin", "--ambient-caps=+sys_admin")


@dataclass(frozen=True, slots=True)
class Range:
    """A container's range. `first` is the uid, and gid, of its root outside; `namespace` a descriptor, borrowed."""

    first: int
    namespace: int

    def show(self, places: Collection[Path]) -> None:
        """Gives the calling thread mounts of its own, on which the range owns the files of the host's ids from 0 on.

        Mounts that have nothing to do with `places` are left out. Those whose file system can't translate owners
        show these as they are. Raises RuntimeFailure.
        """
        try:
            leave_mounts()
            with ExitStack() as stack:
                copies = []
                for place in dict.fromkeys(mount.place for mount in mounted() if _concerns(mount.place, places)):
                    with suppress(OSError):  # another mount hides it
                        copies.append((clone(place), place))
                        stack.callback(os.close, copies[-1][0])
                        translate_owners(copies[-1][0], self.namespace)
                for copy, place in copies:
                    move(copy, place)
                    if place == Path("/"):
                        os.fchdir(copy)
                        os.chroot(".")
        except OSError as error:
            raise RuntimeFailure(f"translate the owners of the container's files: {error.strerror}") from error


@contextmanager
def open_range(user: User, writable: Collection[Path]) -> Iterator[Range | None]:
    """Takes a range for a container that runs as this user, and in which these paths of the host are writable.

    None if the user isn't root. None too, with a warning, if the kernel or a file system can't translate ids.
    """
    if user.uid != 0:
        yield None
        return
    with ExitStack() as stack:
        slot = stack.enter_context(open_slot())
        try:
            namespace = new_user_namespace(slot.first_uid)
        except OSError:
            _warn("Root in the container is root outside: no user namespace can be made")
            yield None
            return
        stack.callback(os.close, namespace)
        fixed = [place for place in writable if not _translates(place, namespace)]
        if fixed:
            _warn(f"Root in the container is root outside: the file system of {fixed[0]} can't translate owners")
        yield None if fixed else Range(slot.first_uid, namespace)


def outside(user: User, range_: Range | None) -> tuple[int, int]:
    """Returns the uid and gid on the host of a user in the container."""
    first = 0 if range_ is None else range_.first
    return first + user.uid, first + user.gid


def become(user: User, range_: Range | None) -> None:
    """Gives the calling process, which fork(2) has just made, the user's ids in the range; None: the host's.

    Its pipes become the user's, so that it can open them again as /dev/stdout and /dev/stderr.
    """
    uid, gid = outside(user, range_)
    for fd in (0, 1, 2):
        with suppress(OSError):
            if stat.S_ISFIFO(os.fstat(fd).st_mode):
                os.fchown(fd, uid, gid)
    if range_ is not None:
        setns(range_.namespace, CLONE_NEWUSER)
    os.setgroups(user.groups)
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)
    if range_ is not None:
        hand_down()  # setns(2) has given it all capabilities in the namespace


def new_user_namespace(first: int) -> int:
    """Makes a user namespace with the ids from 0 on that stand for those from `first` on. Returns its descriptor.

    Raises OSError.
    """
    pipe = subprocess.PIPE
    command = ["setpriv", f"--reuid={first}", f"--regid={first}", *CREATOR, "unshare", "--user", "cat"]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        with process.stdin:
            process.stdin.write(b"\n")
            process.stdin.flush()
            if process.stdout.read(1) != b"\n":  # it answers once it is in its namespace
                raise OSError("no user namespace can be made")
            for kind in ("uid", "gid"):
                Path(f"/proc/{process.pid}/{kind}_map").write_text(f"0 {first} {UIDS}\n")
            return os.open(f"/proc/{process.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)


def has_uid_ranges() -> bool:
    """Whether the kernel lets us give a user namespace such a range of uids and gids."""
    try:
        os.close(new_user_namespace(FIRST_UID))
    except OSError:
        return False
    return True


def _concerns(mount: Path, places: Collection[Path]) -> bool:
    return any(mount.is_relative_to(place) or place.is_relative_to(mount) for place in places)


def _translates(place: Path, namespace: int) -> bool:
    """Whether the file system of a path can translate owners."""
    try:
        copy = clone(place)
    except OSError:
        return False
    try:
        translate_owners(copy, namespace)
    except OSError:
        return False
    finally:
        os.close(copy)
    return True


@cache
def _warn(text: str) -> None:
    """Logs a warning, once for each text."""
    log.warning("%s", text)
