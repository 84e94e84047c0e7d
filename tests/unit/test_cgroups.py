"""Our own cgroups are read from the kernel's texts, of machines with v1, v2, both, and in a container."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyinterceptor.runtime.cgroups import own_cgroups

V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
MEMORY = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"
CPU = "36 31 0:33 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct"
IN_DOCKER = r"37 31 0:32 /docker/ab /odd\040place/memory ro - cgroup cgroup rw,memory"


@pytest.mark.parametrize(
    ("mountinfo", "cgroup", "found"),
    [
        ([V2], ["0::/user.slice/a.scope"], {"": "/sys/fs/cgroup/user.slice/a.scope"}),
        ([V2], ["0::/"], {"": "/sys/fs/cgroup"}),
        ([MEMORY, CPU], ["4:memory:/a", "3:cpu,cpuacct:/"], {
            "memory": "/sys/fs/cgroup/memory/a", "cpu,cpuacct": "/sys/fs/cgroup/cpu,cpuacct",
        }),
        ([MEMORY, V2], ["4:memory:/a:b", "0::/"], {"memory": "/sys/fs/cgroup/memory/a:b", "": "/sys/fs/cgroup"}),
        ([IN_DOCKER], ["4:memory:/docker/ab/c"], {"memory": "/odd place/memory/c"}),
        ([IN_DOCKER], ["4:memory:/elsewhere"], {}),
        ([V2], ["0::/../other"], {}),
        ([MEMORY], ["0::/", "5:pids:/"], {}),
    ],
)
def test_own_cgroups_are_found_where_they_are_mounted(
    mountinfo: list[str], cgroup: list[str], found: dict[str, str]
) -> None:
    owns = own_cgroups("\n".join(mountinfo), "\n".join(cgroup))
    assert {",".join(sorted(own.controllers)): own.directory for own in owns} == {
        names: Path(place) for names, place in found.items()
    }
