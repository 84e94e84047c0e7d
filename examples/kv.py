"""A key-value store over HTTP. The first command stores a value, the second one prints it:

    ./dev run examples/kv.py -- curl -s -T - http://my.kv/greeting <<<hello
    ./dev run examples/kv.py -- curl -s http://my.kv/greeting

The container sends plain HTTP and has no access to the store. `--binding KV=redis://127.0.0.1:6379` selects Redis.
"""

from typing import Any

from pyinterceptor import KV, App, BadArgument, Container, Context, Request, Response


class Sandbox(Container):
    enable_internet = False


@Sandbox.outbound_by_host("my.kv")
async def values(request: Request, env: Any, ctx: Context) -> Response:
    key = request.url.path[1:]
    try:
        match request.method:
            case "GET" | "HEAD":
                value = await env.KV.get(key, type="stream")
                return Response(value, status=404 if value is None else 200)
            case "PUT":
                await env.KV.put(key, request.body)
            case "DELETE":
                await env.KV.delete(key)
            case _:
                return Response("Method Not Allowed", status=405)
    except BadArgument as error:
        return Response(f"{error}\n", status=error.status)
    return Response(status=204)


app = App(containers=[Sandbox], bindings={"KV": KV()})
