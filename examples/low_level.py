"""Everything decided in code: `./dev run examples/low_level.py -- curl -s http://anything.test/` prints setup.

One entrypoint has its rules in `props`. It is registered again to change them, also while connections are open.
"""

from typing import Any

from pyinterceptor import App, Container, Context, Request, Response, WorkerEntrypoint, fetch


class MyOutboundWorker(WorkerEntrypoint):
    async def fetch(self, request: Request) -> Response:
        # Inspect, modify, or deny the request before passing it on
        if self.ctx.props["phase"] == "setup":
            return Response("setup\n")
        return await fetch(request)


class Sandbox(Container):
    enable_internet = False

    async def on_start(self) -> None:
        worker = self.ctx.exports.MyOutboundWorker(props={"phase": "setup"})
        await self.ctx.container.intercept_all_outbound_http(worker)

    async def begin(self) -> None:
        """Starts the container from its instance, with rules for one network and one host."""
        self.ctx.container.start(enable_internet=False)
        worker = self.ctx.exports.MyOutboundWorker(props={"phase": "setup"})
        # Intercept a specific CIDR range
        await self.ctx.container.intercept_outbound_http("203.0.113.0/24", worker)
        # Intercept by hostname
        self.ctx.container.intercept_outbound_http("foo.com", worker)

    async def finish_setup(self) -> None:
        """Updates the handler while the container is running."""
        updated = self.ctx.exports.MyOutboundWorker(props={"phase": "post-install"})
        await self.ctx.container.intercept_outbound_http("203.0.113.0/24", updated)
        await self.ctx.container.intercept_all_outbound_http(updated)


@Sandbox.outbound
async def unreached(request: Request, env: Any, ctx: Context) -> Response:
    return Response("intercepts decide before this handler\n", status=500)


app = App(containers=[Sandbox])
