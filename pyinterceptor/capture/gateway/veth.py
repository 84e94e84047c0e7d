"""The veth pair that ties a container to the gateway.

Neighbours are permanent entries on both ends. So no address has to be resolved, a container can't forge an answer, and
no entry counts against the kernel's table of learnt neighbours (1 024 by default, for all namespaces together).
"""

from __future__ import annotations

import errno
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from pyinterceptor.capture.capture import Attachment
from pyinterceptor.capture.gateway.namespace import inside
from pyinterceptor.capture.gateway.netlink import new_batch, open_netlink, send
from pyinterceptor.errors import CaptureError

NAMES = [f"eth{number}" for number in range(100)]  # the container's end gets the first free name
GATEWAY_V4 = "169.254.1.1"
GATEWAY_V6 = "fe80::1"
GATEWAY_MAC = "02:70:79:00:00:01"
GROUP = 0x7079  # the group of all our ends, so that one message can delete them
NODAD = 0x02  # IFA_F_NODAD, rtnetlink(7)
LINK = 253  # RT_SCOPE_LINK
LOCAL = 255  # RT_TABLE_LOCAL
UP_DEADLINE = 5.0  # seconds
UP_INTERVAL = 0.001  # seconds


def attach(gateway: socket.socket, attachment: Attachment, container: int) -> None:
    """Creates the pair. Its far end is eth0, or the next free name, in the namespace `container` (borrowed descriptor).

    Raises CaptureError if that fails; nothing is left behind then.
    """
    step = f"attach a container as {attachment.v4}"
    name_inside = inside(container, _free_name)
    with new_batch() as batch:
        batch.link(
            "add",
            index=attachment.interface,
            ifname=name(attachment),
            kind="veth",
            address=GATEWAY_MAC,
            group=GROUP,
            state="up",
            peer={"ifname": name_inside, "net_ns_fd": container, "address": mac(attachment)},
        )
        send(gateway, batch, step)
        try:
            _furnish_gateway(batch, attachment)
            send(gateway, batch, step)
            inside(container, lambda: _furnish_container(batch, attachment, name_inside, step))
            _wait_until_up(gateway, batch, attachment, step)
        except BaseException:
            detach(gateway, attachment)
            raise


def detach(gateway: socket.socket, attachment: Attachment) -> None:
    """Deletes the pair. A missing one, deleted with the container's namespace, is no error."""
    with new_batch() as batch:
        batch.link("del", index=attachment.interface)
        send(gateway, batch, f"detach {attachment.v4}", ignore=frozenset({errno.ENODEV}))


def detach_all(gateway: socket.socket) -> None:
    """Deletes all pairs at once. It is no error if there are none."""
    with new_batch() as batch:
        batch.link("del", group=GROUP)
        send(gateway, batch, "detach all containers", ignore=frozenset({errno.ENODEV, errno.EINVAL}))


def name(attachment: Attachment) -> str:
    return f"pi{attachment.interface}"


def mac(attachment: Attachment) -> str:
    """Returns a locally administered MAC address that no other attachment has."""
    return ":".join(f"{byte:02x}" for byte in b"\x02\x71" + attachment.v4.packed)


def _free_name() -> str:
    """Returns the first free name. Must run inside the container's namespace."""
    taken = {name for _, name in socket.if_nameindex()}
    return next(name for name in NAMES if name not in taken)


def _furnish_gateway(batch: Any, attachment: Attachment) -> None:
    index, v4, v6 = attachment.interface, str(attachment.v4), str(attachment.v6)
    batch.addr("add", index=index, address=GATEWAY_V6, prefixlen=64, flags=NODAD)
    batch.route("add", dst=f"{v4}/32", oif=index, scope=LINK)
    batch.route("add", dst=f"{v6}/128", oif=index)
    for address in (v4, v6):
        batch.neigh("add", ifindex=index, dst=address, lladdr=mac(attachment), state="permanent")


def _furnish_container(batch: Any, attachment: Attachment, name_inside: str, step: str) -> None:
    """Configures the container's end. Must run inside the container's namespace."""
    with suppress(FileNotFoundError):  # without IPv6 in the kernel, the addresses below fail with a clear error
        Path(f"/proc/sys/net/ipv6/conf/{name_inside}/disable_ipv6").write_text("0")  # container engines set it to 1
    index = socket.if_nametoindex(name_inside)
    batch.link("set", index=1, state="up")
    batch.link("set", index=index, state="up")
    batch.addr("add", index=index, address=str(attachment.v4), prefixlen=32)
    batch.addr("add", index=index, address=str(attachment.v6), prefixlen=128, flags=NODAD)
    # The kernel adds this route itself, but later: until then, answers to the address would be dropped.
    batch.route("add", dst=f"{attachment.v6}/128", oif=index, table=LOCAL, type="local")
    batch.route("add", dst=f"{GATEWAY_V4}/32", oif=index, scope=LINK)
    batch.route("add", dst="0.0.0.0/0", gateway=GATEWAY_V4, oif=index)
    batch.route("add", dst="::/0", gateway=GATEWAY_V6, oif=index)
    for address in (GATEWAY_V4, GATEWAY_V6):
        batch.neigh("add", ifindex=index, dst=address, lladdr=GATEWAY_MAC, state="permanent")
    with open_netlink() as own:
        send(own, batch, step)


def _wait_until_up(gateway: socket.socket, batch: Any, attachment: Attachment, step: str) -> None:
    """Waits until the gateway's end is up. The kernel notices only after a delay that the other end is up, and drops
    packets until then: the first answer would be lost. Since Linux 6.8, this query itself makes it check.
    """
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

    deadline = time.monotonic() + UP_DEADLINE
    while time.monotonic() < deadline:
        batch.link("get", index=attachment.interface)
        (answer,) = send(gateway, batch, step)
        link = ifinfmsg(answer)
        link.decode()
        if link.get_attr("IFLA_OPERSTATE") == "UP":
            return
        time.sleep(UP_INTERVAL)
    raise CaptureError(f"{step}: the interface is not up after {UP_DEADLINE:.0f} s")
