"""What runs a workload: the embedded `netns` runtime, and podman."""

from pyinterceptor.runtime.netns import NetnsContainer, open_netns_container
from pyinterceptor.runtime.podman import PodmanContainer, open_podman_container
from pyinterceptor.runtime.process import CommandNotRun, Finished, Running

__all__ = [
    "CommandNotRun",
    "Finished",
    "NetnsContainer",
    "PodmanContainer",
    "Running",
    "open_netns_container",
    "open_podman_container",
]
