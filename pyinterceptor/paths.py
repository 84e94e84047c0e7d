"""Where on this machine the files of pyinterceptor are.

Pure: names only; nothing is opened, made or removed here. `./dev` reads RUN and STATE from this file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

RUN = Path("/run/pyinterceptor")  # a directory for each running instance; hidden from containers
STATE = Path("/var/lib/pyinterceptor")  # a directory for each app's bindings; hidden from containers
RESOLV_CONF = Path("/etc/resolv.conf")  # resolv.conf(5): the host's, and at the same place the one in a container
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
NAME_RULE = "a name is 1 to 64 letters, digits, dots, dashes, underscores"  # what is_name holds to, in an error


@dataclass(frozen=True, slots=True)
class InstancePaths:
    """The files of one running instance, all in `directory`."""

    directory: Path

    @property
    def lock(self) -> Path:
        """Locked with flock(2) while the instance lives."""
        return self.directory / "lock"

    @property
    def namespace(self) -> Path:
        """The gateway's network namespace is mounted here."""
        return self.directory / "gateway"

    @property
    def pins(self) -> Path:
        """A bpffs of the instance's own, with its program, link and maps."""
        return self.directory / "bpf"


def is_name(text: str) -> bool:
    """Whether a directory of ours may have this name: that of an instance, or of an app's state."""
    return NAME.fullmatch(text) is not None
