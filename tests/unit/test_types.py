"""mypy --strict on users' apps: it reports nothing in correct ones, and each mistake on its line."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

HEAD = """\
import asyncio
from collections.abc import Awaitable
from typing import Any

import trio

from pyinterceptor import (
    App, AsyncioContainer, BlockingContainer, Budget, Container, ContainerHandle, Context, Counters, Finished, Headers,
    Interceptor, NamespaceHandle, Options, Request, RequestRecord, Response, Running, fetch, open_in_thread,
    open_interceptor,
)

async def hello(request: Request, env: Any, ctx: Context) -> Response:
    return Response("hello", headers={"x-container": ctx.container_id})

def plain(request: Request, env: Any, ctx: Context) -> Response:
    return Response(None, 204)
"""

GOOD = {
    "faces": """
class Sandbox(Container): ...

def blocking(app: App) -> int:
    with open_in_thread(app, instance="one") as interceptor:
        container = interceptor.get_container(Sandbox, "one")
        finished: Finished = container.exec(["true"], check=True)
        with interceptor.records(RequestRecord) as records:
            for record in records:
                print(record.url, interceptor.count(Sandbox).handled)
        return finished.returncode + container.start("true").wait()

async def for_asyncio(app: App) -> str:
    async with open_in_thread(app) as interceptor:
        container = await interceptor.get_container(Sandbox)
        executing = asyncio.create_task(container.exec("true"))
        async with interceptor.records(RequestRecord) as records:
            async for record in records:
                print(record.url)
        return (await executing).text
""",
    "decorators": """
class Sandbox(Container):
    enable_internet = False
    local_networks = ["10.1.0.0/16"]
    budget = Budget(flows=100)
    image = "alpine"
    calls: int = 0

    async def reset(self) -> None:
        self.calls = 0

@Sandbox.outbound_by_host("my.kv", "*.internal")
async def greetings(request: Request, env: Any, ctx: Context) -> Response:
    return Response(await env.KV.get(request.url.path))

@Sandbox.outbound
def everything_else(request: Request, env: Any, ctx: Context) -> Response:
    return Response("no", status=405)

app = App(containers=[Sandbox], bindings={"KEY": "value"})
""",
    "responses": """
async def both() -> None:
    made: Response = Response.json({"a": 1}, status=201, headers={"a": "b"})
    value: dict[str, int] = await made.json()
    moved: Response = Response.redirect("http://my.kv/", 301)
    print(value, moved)
""",
    "assignment": """
class Sandbox(Container):
    outbound = hello
    outbound_by_host = {"my.kv": hello, "other.kv": plain}

Sandbox.outbound = plain
Sandbox.outbound = None
Sandbox.outbound_by_host = {"my.kv": plain}
""",
    "a constructor": """
from pyinterceptor import ContainerContext

class Sandbox(Container):
    def __init__(self, ctx: ContainerContext, env: Any) -> None:
        super().__init__(ctx, env)
        self.note: str = ctx.id
""",
    "a program": """
class Sandbox(Container):
    pass

async def main() -> None:
    async with open_interceptor(App(containers=[Sandbox]), options=Options(idle_deadline=60.0)) as interceptor:
        opened: Interceptor = interceptor
        container: ContainerHandle = await opened.get_container(Sandbox, "one", user="nobody")
        finished: Finished = await container.exec(["true"], check=True)
        running: Running = await container.start("sleep 1000")
        counters: Counters = opened.count(Sandbox, "one")
        await opened.replace_policy(Sandbox)
        tied: NamespaceHandle = await opened.attach(Sandbox, "two", "/run/netns/two")
        await tied.stop()
        await container.stop(grace=0)
        print(finished.returncode, running.pid, counters.flows)

trio.run(main)
""",
    "a proxy": """
async def proxy(request: Request, env: Any, ctx: Context) -> Response:
    response = await fetch(Request(request, headers={"authorization": "x"}))
    return Response(response.body, response.status, Headers({"via": "us"}))
""",
}

# Each app has its mistake on the line that ends in the comment.
BAD = {
    "a misspelt option of open_in_thread": """
async def main(app: App) -> None:
    async with open_in_thread(app, instnce="one"):  # here
        pass
""",
    "a number as a command in a blocking call": """
def main(container: BlockingContainer) -> None:
    container.exec(5)  # here
""",
    "a call of asyncio that is not awaited": """
async def main(container: AsyncioContainer) -> Finished:
    return container.exec("true")  # here
""",
    "a handler without ctx": """
class Sandbox(Container): ...
@Sandbox.outbound  # here
async def short(request: Request, env: Any) -> Response: return Response("")
""",
    "a handler that returns text": """
class Sandbox(Container): ...
@Sandbox.outbound_by_host("my.kv")  # here
async def text(request: Request, env: Any, ctx: Context) -> str: return ""
""",
    "a handler that may return nothing": """
class Sandbox(Container): ...
@Sandbox.outbound  # here
async def maybe(request: Request, env: Any, ctx: Context) -> Response | None: return None
""",
    "an assigned handler of the wrong shape": """
class Sandbox(Container): ...
def wrong(request: Request) -> Response: return Response("")
Sandbox.outbound = wrong  # here
""",
    "a wrong handler in a mapping": """
class Sandbox(Container): ...
def wrong(request: Request) -> Response: return Response("")
Sandbox.outbound_by_host = {"my.kv": wrong}  # here
""",
    "a wrong handler in a mapping in the body": """
def wrong(request: Request) -> Response: return Response("")
class Sandbox(Container):
    outbound_by_host = {"my.kv": wrong}  # here
""",
    "a wrong handler in the body": """
def wrong(request: Request) -> Response: return Response("")
class Sandbox(Container):
    outbound = wrong  # here
""",
    "a misspelt assignment": """
class Sandbox(Container): ...
Sandbox.enable_internett = False  # here
""",
    "a setting of another type": """
class Sandbox(Container):
    enable_internet = "no"  # here
""",
    "a misspelt option of open_interceptor": """
class Sandbox(Container): ...
open_interceptor(App(containers=[Sandbox]), nameserver=["192.0.2.1"])  # here
""",
    "a misspelt field of Options": """
Options(idle_dedline=60.0)  # here
""",
    "a misspelt field of Budget": """
Budget(flow=3)  # here
""",
    "a class where a list is wanted": """
class Sandbox(Container): ...
App(containers=Sandbox)  # here
""",
    "a class without its keyword": """
class Sandbox(Container): ...
App([Sandbox])  # here
""",
    "a misspelt option of exec": """
async def main(container: ContainerHandle) -> None:
    await container.exec("true", enviroment={})  # here
""",
    "a number as a command": """
async def main(container: ContainerHandle) -> None:
    await container.exec(5)  # here
""",
    "a misspelt option of start": """
async def main(container: ContainerHandle) -> None:
    await container.start("true", std_out=1)  # here
""",
    "a name where a class is wanted": """
async def main(interceptor: Interceptor) -> None:
    await interceptor.get_container("Sandbox")  # here
""",
    "a misspelt option of get_container": """
class Sandbox(Container): ...
async def main(interceptor: Interceptor) -> None:
    await interceptor.get_container(Sandbox, usr="nobody")  # here
""",
    "a response with a misspelt option": """
Response("", state=200)  # here
""",
    "a header that is a number": """
Response("", headers={"content-length": 1})  # here
""",
    "a fetch with a misspelt option": """
async def main() -> None:
    await fetch("http://example.org/", redirects="manual")  # here
""",
    "a response that is not awaited": """
async def forward(request: Request, env: Any, ctx: Context) -> Response:
    return fetch(request)  # here
""",
}


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[int]]:
    """Returns the lines with an error by file, from one run of mypy over all apps."""
    place = tmp_path_factory.mktemp("apps")
    (place / "mypy.ini").write_text("[mypy]\nstrict = true\nfollow_imports = silent\n")
    files = list(EXAMPLES)
    for kind, apps in (("good", GOOD), ("bad", BAD)):
        for name, text in apps.items():
            files.append(place / f"{kind}_{name.replace(' ', '_')}.py")
            files[-1].write_text(HEAD + text)
    found: dict[str, set[int]] = {path.stem: set() for path in files}
    command = [sys.executable, "-m", "mypy", "--config-file", str(place / "mypy.ini"), "--no-error-summary"]
    command += ["--cache-dir", str(place / "cache"), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode in (0, 1), done.stderr
    for line in done.stdout.splitlines():
        if match := re.match(r"(\S+?)\.py:(\d+): error:", line):
            found[Path(match[1]).stem].add(int(match[2]))
    return found


@pytest.mark.parametrize("name", GOOD)
def test_a_good_app_has_no_type_error(name: str, reported: dict[str, set[int]]) -> None:
    assert reported[f"good_{name.replace(' ', '_')}"] == set()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_has_no_type_error(path: Path, reported: dict[str, set[int]]) -> None:
    assert reported[path.stem] == set()


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_is_a_type_error_on_its_line(name: str, reported: dict[str, set[int]]) -> None:
    lines = (HEAD + BAD[name]).splitlines()
    (expected,) = (number for number, line in enumerate(lines, 1) if line.endswith("# here"))
    assert reported[f"bad_{name.replace(' ', '_')}"] == {expected}
