"""The paths of pyinterceptor's files on this machine.

Pure: this module opens, creates and removes nothing. `./dev` reads RUN and STATE from this file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

RUN = Path("/run/pyinterceptor")  # a directory for each running instance; hidden from containers
STATE = Path("/var/lib/pyinterceptor")  # a directory for each app's bindings; hidden from containers
PODMAN = Path("/var/lib/containers/pyinterceptor")  # beside podman's storage: locks of containers, and their files
HOMES = STATE / ".homes"  # the homes that are kept, a directory for each state and user
WORKDIRS = STATE / ".workdirs"  # a lock for each working directory in use
RESOLV_CONF = Path("/etc/resolv.conf")  # resolv.conf(5), on the host and in a container
HOSTS = Path("/etc/hosts")  # hosts(5), on the host and in a container
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
NAME_RULE = "a name must be 1 to 64 letters, digits, dots, dashes or underscores"  # the rule of is_name, for errors


@dataclass(frozen=True, slots=True)
class InstancePaths:
    """The files of one running instance, all in `directory`."""

    directory: Path

    @property
    def lock(self) -> Path:
        """The lock file, which is locked with flock(2) while the instance lives."""
        return self.directory / "lock"

    @property
    def namespace(self) -> Path:
        """The mount point of the gateway's network namespace."""
        return self.directory / "gateway"

    @property
    def pins(self) -> Path:
        """The mount point of the instance's bpffs, which holds its program, link and maps."""
        return self.directory / "bpf"


def is_name(text: str) -> bool:
    """Whether this is a valid name of an instance or of an app's state, which become names of directories."""
    return NAME.fullmatch(text) is not None
