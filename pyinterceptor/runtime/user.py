"""The user that a container's commands run as."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass

from pyinterceptor.errors import RuntimeFailure


@dataclass(frozen=True, slots=True)
class User:
    """A user and its groups. `name` and `home` are None if the password database has no entry for the uid."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    name: str | None = None
    home: str | None = None

    def environment(self) -> dict[str, str]:
        """Returns the environment variables of this user; none if it is our own user or has no entry."""
        if self.uid == os.getuid() or self.name is None or self.home is None:
            return {}
        return {"HOME": self.home, "USER": self.name, "LOGNAME": self.name}


def invoking_user() -> User:
    """Returns the user that called sudo, or else our own."""
    uid, gid = os.environ.get("SUDO_UID", ""), os.environ.get("SUDO_GID", "")
    if os.getuid() == 0 and uid.isdecimal() and gid.isdecimal():
        return _of_uid(int(uid), int(gid))
    entry = _of_uid(os.getuid(), os.getgid())
    return User(entry.uid, entry.gid, tuple(os.getgroups()), entry.name, entry.home)


def named_user(user: str) -> User:
    """Returns the user with this name or number. Raises RuntimeFailure if no user has this name."""
    if user.isdecimal():
        return _of_uid(int(user), None)
    try:
        return _of_uid(pwd.getpwnam(user).pw_uid, None)
    except KeyError as error:
        raise RuntimeFailure(f"run as {user}: no such user") from error


def _of_uid(uid: int, gid: int | None) -> User:
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        gid = uid if gid is None else gid
        return User(uid, gid, (gid,))
    gid = entry.pw_gid if gid is None else gid
    return User(uid, gid, tuple(os.getgrouplist(entry.pw_name, gid)), entry.pw_name, entry.pw_dir)
