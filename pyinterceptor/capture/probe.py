"""What capture needs of this machine, each tried out rather than guessed from versions.

Everything is tried in a namespace of its own; nothing is left behind.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pyinterceptor.capture.files import kernel_directory
from pyinterceptor.capture.filter import Filter
from pyinterceptor.capture.namespace import on_own_thread, unshare_network
from pyinterceptor.capture.netlink import new_batch, open_netlink, send
from pyinterceptor.capture.pins import try_program
from pyinterceptor.capture.program import INTERPRETERS
from pyinterceptor.capture.sockets import open_dns, open_listener
from pyinterceptor.errors import CaptureError

# linux/capability.h
CAPABILITIES = {"CAP_NET_BIND_SERVICE": 10, "CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21, "CAP_BPF": 39}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing capture needs; `remedy` says what to do where it is missing."""

    name: str
    ok: bool
    remedy: str


def probe() -> list[Check]:
    """Tries everything out; takes about half a second."""
    return [*_capabilities(), *_packages(), *_kernel()]


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
        Check("BCC", _has_bcc(), "apt install python3-bpfcc (the PyPI project bcc is something else)"),
        Check("libbpf", libbpf, "apt install libbpf1"),
        Check(
            "nftables for Python",
            importlib.util.find_spec("nftables") is not None,
            "apt install python3-nftables, and make the virtual environment with --system-site-packages",
        ),
        Check("the kernel program's source", _works(kernel_directory), "install pyinterceptor anew"),
    ]


def _has_bcc() -> bool:
    for interpreter in dict.fromkeys((*INTERPRETERS, sys.executable)):
        try:
            found = subprocess.run([interpreter, "-I", "-c", "import bcc"], capture_output=True)
        except FileNotFoundError:
            continue
        if found.returncode == 0:
            return True
    return False


def _kernel() -> list[Check]:
    kernel = "use a kernel of 5.9 or later with"
    return [
        Check("BPF socket look-up programs", _works(try_program), f"{kernel} CONFIG_BPF_SYSCALL, as root"),
        Check("bpffs", "\tbpf\n" in Path("/proc/filesystems").read_text(), f"{kernel} CONFIG_BPF_SYSCALL"),
        Check("network namespaces", _works_inside(lambda: None), f"{kernel} CONFIG_NET_NS, as root"),
        Check("IPv6", Path("/proc/net/if_inet6").exists(), "boot without ipv6.disable=1"),
        Check("veth", _works_inside(_try_veth), f"{kernel} CONFIG_VETH, or: modprobe veth"),
        Check("policy routing", _works_inside(_try_rule), f"{kernel} CONFIG_IP_MULTIPLE_TABLES (and IPV6)"),
        Check("nft rules", _works_inside(_try_filter), f"{kernel} CONFIG_NF_TABLES_INET, _ARP and CONFIG_NFT_FIB_INET"),
        Check("sockets that take any address", _works_inside(_try_sockets), f"{kernel} CONFIG_IPV6"),
        Check("a place for our state", os.access("/run", os.W_OK), "mount /run writable"),
    ]


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


def _works_inside(step: Callable[[], object]) -> bool:
    """Whether `step` succeeds in a new namespace, which dies with its thread."""

    def run() -> None:
        unshare_network()
        step()

    return _works(lambda: on_own_thread(run))


def _works(step: Callable[[], object]) -> bool:
    try:
        step()
    except (OSError, CaptureError):
        return False
    return True
