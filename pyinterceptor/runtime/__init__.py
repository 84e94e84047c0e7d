"""The runtimes: the embedded one, `netns`, and podman. Both need root."""

from contextlib import AbstractAsyncContextManager

from pyinterceptor.runtime.netns import NetnsRuntime, open_netns_container
from pyinterceptor.runtime.podman import PodmanRuntime, open_podman_container
from pyinterceptor.runtime.process import CommandNotRun, Finished, Running
from pyinterceptor.runtime.runtime import Attach, Runtime, execute, run_inherited

__all__ = [
    "CommandNotRun",
    "Finished",
    "NetnsRuntime",
    "PodmanRuntime",
    "Running",
    "Runtime",
    "execute",
    "open_netns_container",
    "open_podman_container",
    "open_runtime",
    "run_inherited",
]


def open_runtime(
    *, image: str | None, name: str, user: str | None, attach: Attach, replaced: bool = False
) -> AbstractAsyncContextManager[Runtime]:
    """Opens the runtime of a container: podman if `image` is given, the embedded one if it is None.

    `replaced`: a later command replaces the image's own, which isn't run.
    """
    if image is None:
        return open_netns_container(name=name, user=user, attach=attach)
    return open_podman_container(name=name, image=image, user=user, attach=attach, replaced=replaced)
