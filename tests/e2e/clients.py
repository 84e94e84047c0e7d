"""Common HTTP clients: each is a command that prints the body of a URL."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from pyinterceptor import App, Container, open_interceptor
from pyinterceptor.relay.relay import Options
from pyinterceptor.runtime import Files
from tests.starting import started

URLLIB = """
import sys, urllib.request
print(urllib.request.urlopen(sys.argv[1], timeout=20).read().decode(), end="")
"""
NODE = "fetch(process.argv[1]).then((answer) => answer.text()).then((text) => process.stdout.write(text))"
SHOWN = Files(show=(Path(__file__).parent, Path(sys.prefix)))
JAVA = str(Path(__file__).with_name("Fetch.java"))
TIME = 180.0  # seconds for the whole life of a test's container

CLIENTS: dict[str, list[str]] = {
    "curl": ["curl", "-sSg", "-m", "20"],
    "wget": ["wget", "-qO-", "-T", "20", "-t", "1"],
    "urllib": ["/usr/bin/python3", "-c", URLLIB],
    "node": ["node", "-e", NODE],
    "java": ["java", "-XX:TieredStopAtLevel=1", JAVA],
}


@asynccontextmanager
async def running_container(
    cls: type[Container], instance: str, seen: list[str], options: Options | None = None, **settings: Any
) -> AsyncIterator[Any]:
    """Yields a container of the class. Its handlers have `seen` in `env`. `settings` are those of open_interceptor."""
    with trio.fail_after(TIME):
        app = App(containers=[cls], bindings={"seen": seen})
        async with open_interceptor(app, instance=instance, options=options, **settings) as interceptor:
            files = SHOWN if cls.image is None else None
            yield await started(interceptor, cls, "one", files=files)


async def output(container: Any, argv: Sequence[str], input: bytes | None = None) -> str:
    """Returns the output of a command in the container. Raises AssertionError with its errors if it fails."""
    finished = await container.exec(argv, input=input)
    assert finished.returncode == 0, f"{argv}: {finished.returncode}: {finished.stderr.decode(errors='replace')}"
    return str(finished.stdout.decode())
