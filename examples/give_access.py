"""Access while a command runs: `./dev run examples/give_access.py -- curl -s http://my.setup/` prints a token.

A request to http://my.setup/ runs a command in the container, which may reach the KV as long as the command runs.
"""

from typing import Any

from pyinterceptor import KV, App, Container, Context, Request, Response

COMMAND = "curl -sS -w %{http_code} http://my.kv/token"


class Sandbox(Container):
    enable_internet = False


@Sandbox.outbound_handlers
async def kv_access(request: Request, env: Any, ctx: Context) -> Response:
    key = request.url.path.lstrip("/")
    value = await env.KV.get(key)
    return Response(value or "", status=200 if value is not None else 404)


async def set_up_container(env: Any, name: str) -> str:
    container = await env.SANDBOX.get_by_name(name)
    # Give the container access to KV on a specific host during setup
    await container.set_outbound_by_host("my.kv", "kv_access")
    finished = await container.exec(COMMAND)
    # Remove access once setup is complete
    await container.remove_outbound_by_host("my.kv")
    return str(finished.text)


@Sandbox.outbound_by_host("my.setup")
async def run_setup(request: Request, env: Any, ctx: Context) -> Response:
    await env.KV.put("token", "a token")
    return Response(await set_up_container(env, ctx.container_name))


app = App(containers=[Sandbox], bindings={"KV": KV(), "SANDBOX": Sandbox})
