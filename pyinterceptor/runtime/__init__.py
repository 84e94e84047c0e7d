"""The runtimes: the embedded one, `netns`, and podman. Both need root."""

from contextlib import AbstractAsyncContextManager

from pyinterceptor.errors import RuntimeFailure
from pyinterceptor.policy.limits import Limits
from pyinterceptor.runtime.files import EMPTY, Files
from pyinterceptor.runtime.netns import NetnsRuntime, open_netns_container
from pyinterceptor.runtime.podman import PodmanRuntime, open_podman_container
from pyinterceptor.runtime.process import CommandNotRun, Finished, Running
from pyinterceptor.runtime.runtime import Attach, Runtime, execute, run_inherited

__all__ = [
    "CommandNotRun",
    "Files",
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
    *,
    image: str | None,
    name: str,
    user: str | None,
    files: Files,
    limits: Limits,
    attach: Attach,
    replaced: bool = False,
) -> AbstractAsyncContextManager[Runtime]:
    """Opens the runtime of a container: podman if `image` is given, the embedded one if it is None.

    `replaced`: a later command replaces the image's own, which isn't run.

    Raises RuntimeFailure for files beside an image, which brings its own.
    """
    if image is None:
        return open_netns_container(name=name, user=user, files=files, attach=attach, limits=limits)
    if files != EMPTY:
        raise RuntimeFailure("workdir, home, show and writable are for containers without an image")
    return open_podman_container(
        name=name, image=image, user=user, attach=attach, limits=limits, replaced=replaced
    )
