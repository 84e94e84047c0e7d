"""Checks whether this machine has the features that capture and the runtimes need.

Features are tried out instead of being inferred from version numbers: each in a new namespace, with nothing left
behind.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pyinterceptor.capture.gateway.debian import has_bcc, nftables
from pyinterceptor.capture.gateway.files import kernel_directory
from pyinterceptor.capture.gateway.filter import Filter
from pyinterceptor.capture.gateway.namespace import unshare_network
from pyinterceptor.capture.gateway.netlink import new_batch, open_netlink, send
from pyinterceptor.capture.gateway.pins import try_program
from pyinterceptor.capture.gateway.sockets import open_dns, open_listener
from pyinterceptor.errors import CaptureError
from pyinterceptor.threads import on_own_thread

# linux/capability.h
CAPABILITIES = {
    "CAP_DAC_OVERRIDE": 1,
    "CAP_KILL": 5,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_SETPCAP": 8,
    "CAP_NET_BIND_SERVICE": 10,
    "CAP_NET_ADMIN": 12,
    "CAP_SYS_CHROOT": 18,
    "CAP_SYS_ADMIN": 21,
    "CAP_BPF": 39,
}
KERNEL = "use a kernel of 5.9 or later with"
# Programs and their Debian packages: those of the embedded runtime, then those for containers with an image.
EMBEDDED = {"bwrap": "bubblewrap"}
IN_IMAGES = {"podman": "podman", "runc": "runc", "catatonit": "catatonit"}


@dataclass(frozen=True, slots=True)
class Check:
    """The result of checking one requirement. `remedy` names the step that provides it; `optional` is True if only
    some uses need it."""

    name: str
    ok: bool
    remedy: str
    optional: bool = False

    def __str__(self) -> str:
        if self.ok:
            return f"ok        {self.name}"
        return f"{'optional' if self.optional else 'MISSING '}  {self.name}: {self.remedy}"


def probe() -> list[Check]:
    """Checks all requirements. Takes about half a second. A user without the capabilities of root gets one check."""
    capabilities = _capabilities()
    can_try = all(check.ok for check in capabilities)
    if not can_try and os.geteuid() != 0:
        return [Check("root", False, "run it with sudo")]
    return [*capabilities, *_packages(), *_programs(), *_kernel(), *_tried(can_try)]


def _capabilities() -> list[Check]:
    status = Path("/proc/self/status").read_text()
    effective = int(status.split("CapEff:")[1].split()[0], 16)
    return [
        Check(name, bool(effective >> bit & 1), f"run as root, or grant the process {name}")
        for name, bit in CAPABILITIES.items()
    ]


def _packages() -> list[Check]:
    libbpf = _works(lambda: ctypes.CDLL("libbpf.so.1"))
    return [
        Check("BCC", has_bcc(), "apt install python3-bpfcc (bcc on PyPI is an unrelated project)"),
        Check("libbpf", libbpf, "apt install libbpf1"),
        Check("nftables for Python", _works(nftables), "apt install python3-nftables"),
        Check("the kernel program's source", _works(kernel_directory), "reinstall pyinterceptor"),
    ]


def _programs() -> Iterator[Check]:
    for program, package in EMBEDDED.items():
        yield Check(f"{program} ({package})", shutil.which(program) is not None, f"apt install {package}")
    for program, package in IN_IMAGES.items():
        remedy = f"for container classes with an image: apt install {package}"
        yield Check(f"{program} ({package})", shutil.which(program) is not None, remedy, optional=True)


def _kernel() -> Iterator[Check]:
    namespaces = all(Path("/proc/self/ns", name).exists() for name in ("pid", "mnt", "ipc", "uts"))
    bpffs = "\tbpf\n" in Path("/proc/filesystems").read_text()
    filters = Path("/proc/sys/kernel/seccomp").exists()
    yield Check("PID, mount, IPC and UTS namespaces", namespaces, f"{KERNEL} CONFIG_NAMESPACES")
    yield Check("system-call filters", filters, f"{KERNEL} CONFIG_SECCOMP_FILTER")
    yield Check("bpffs", bpffs, f"{KERNEL} CONFIG_BPF_SYSCALL")
    yield Check("IPv6", Path("/proc/net/if_inet6").exists(), "boot without ipv6.disable=1")
    reuse = Path("/proc/sys/net/ipv4/tcp_tw_reuse").read_text().strip() == "1"
    remedy = "so that programs of the host reuse local ports as containers do: sysctl -w net.ipv4.tcp_tw_reuse=1"
    yield Check("net.ipv4.tcp_tw_reuse=1", reuse, remedy, optional=True)
    yield Check("a writable /run", os.access("/run", os.W_OK), "mount /run writable, and run as root")


def _tried(can_try: bool) -> Iterator[Check]:
    for name, (step, options) in STEPS.items():
        remedy = f"{KERNEL} {options}" if can_try else "not tried without the capabilities above"
        yield Check(name, can_try and _works(step), remedy)


def _try_veth() -> None:
    _try_netlink(lambda batch: batch.link("add", ifname="probe", kind="veth", peer={"ifname": "peer"}))


def _try_rule() -> None:
    _try_netlink(lambda batch: batch.rule("add", priority=1, iifname="lo", table=254))


def _try_netlink(add: Callable[..., object]) -> None:
    with new_batch() as batch, open_netlink() as own:
        add(batch)
        send(own, batch, "probe")


def _try_filter() -> None:
    Filter(kernel_directory() / "gateway.nft.json").close()


def _try_sockets() -> None:
    open_listener().close()
    open_dns().close()


def _inside(step: Callable[[], object]) -> Callable[[], object]:
    """Returns a function that runs `step` in a new network namespace, which ends with its thread."""

    def run() -> None:
        unshare_network()
        step()

    return lambda: on_own_thread(run)


def _works(step: Callable[[], object]) -> bool:
    try:
        step()
    except (OSError, ImportError, CaptureError):
        return False
    return True


STEPS: dict[str, tuple[Callable[[], object], str]] = {
    "BPF socket look-up programs": (try_program, "CONFIG_BPF_SYSCALL"),
    "network namespaces": (_inside(lambda: None), "CONFIG_NET_NS"),
    "veth": (_inside(_try_veth), "CONFIG_VETH, or: modprobe veth"),
    "policy routing": (_inside(_try_rule), "CONFIG_IP_MULTIPLE_TABLES (and IPV6)"),
    "nft rules": (_inside(_try_filter), "CONFIG_NF_TABLES_INET, _ARP and CONFIG_NFT_FIB_INET"),
    "sockets that take any address": (_inside(_try_sockets), "CONFIG_IPV6"),
}
