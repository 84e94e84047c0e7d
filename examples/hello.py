"""A handler in place of a host: `./dev run examples/hello.py -- curl -s http://my.kv/greeting` prints hello."""

from typing import Any

from pyinterceptor import App, Container, Context, Request, Response, fetch

GREETINGS = {"greeting": "hello"}


class Sandbox(Container):
    enable_internet = False


@Sandbox.outbound_by_host("my.kv")
async def greetings(request: Request, env: Any, ctx: Context) -> Response:
    value = GREETINGS.get(request.url.path.lstrip("/"))
    return Response(value or "", status=200 if value is not None else 404)


@Sandbox.outbound
async def everything_else(request: Request, env: Any, ctx: Context) -> Response:
    if request.method != "GET":
        return Response("Method Not Allowed", status=405)
    return await fetch(request)


app = App(containers=[Sandbox])
