"""One request of a container: decided, then answered by a handler, passed on, or refused.

Everything a client can be told of a refusal is written here.
"""

from __future__ import annotations

import inspect
import logging
from dataclasses import dataclass
from typing import Any

from pyinterceptor._relay import lib
from pyinterceptor.container import Context
from pyinterceptor.errors import DialRefused, FetchError
from pyinterceptor.http.client import Client
from pyinterceptor.http.fetch import fetch_scope
from pyinterceptor.policies import Policy
from pyinterceptor.policy.addresses import Address
from pyinterceptor.relay.relay import Cause
from pyinterceptor.web import Request, Response

log = logging.getLogger("pyinterceptor")

HANDLERS = 256  # at once, a container; more are told to come back
REFUSED = 520  # what a container's call gets that nothing allows

CAUSES = {
    Cause.DIAL_FAILED: (502, "the host could not be reached"),
    Cause.DIAL_GUARD: (REFUSED, "its address is local to the host and no rule names it"),
    Cause.NAME_UNKNOWN: (502, "the name does not resolve"),
}


@dataclass(slots=True)
class Attached:
    """A container whose flows are ours: its interface, its policy now, and who it is to handlers."""

    container: int  # ifindex
    context: Context
    policy: Policy
    client: Client  # its own: what it may dial and its pooled connections are nobody else's
    running: int = 0  # handlers
    requests: int = 0


class Outbound:
    """Answers the requests of one handed-off connection."""

    def __init__(
        self, attached: Attached, env: Any, destination: tuple[Address, int], cause: Cause
    ) -> None:
        self._attached = attached
        self._env = env
        self._destination = destination
        self._cause = cause  # what C failed at, of the first request

    async def respond(self, request: Request) -> Response:
        """Decides this request by the policy of this moment."""
        attached, policy = self._attached, self._attached.policy
        attached.requests += 1
        decision = policy.decide(lib.PROTOCOL_HTTP, request.url.host, self._destination)
        cause, self._cause = self._cause, Cause.DONE
        if decision.verdict == lib.VERDICT_HANDLE:
            return await self._handle(request, policy, decision.rule)
        if decision.verdict == lib.VERDICT_REFUSE:
            return refusal(REFUSED, request.url.host, "no rule allows it")
        if cause in CAUSES:
            return refusal(CAUSES[cause][0], request.url.host, CAUSES[cause][1])
        return await self._pass(request)

    async def _handle(self, request: Request, policy: Policy, rule: int) -> Response:
        attached = self._attached
        if attached.running >= HANDLERS:
            return Response("Too many handlers are running for this container.\n", 503, {"retry-after": "1"})
        attached.running += 1
        try:
            async with fetch_scope(attached.client) as scope:
                answer = policy.handlers[rule](request, self._env, attached.context)
                response = await answer if inspect.isawaitable(answer) else answer
                if not isinstance(response, Response):
                    name = policy.rule_name(rule)
                    raise TypeError(f"the handler of {name!r} returned {type(response).__name__}, not a Response")
                scope.keep(response)
                return response
        finally:
            attached.running -= 1

    async def _pass(self, request: Request) -> Response:
        try:
            return await self._attached.client.fetch(request, redirect="manual")
        except DialRefused:
            return refusal(REFUSED, request.url.host, CAUSES[Cause.DIAL_GUARD][1])
        except FetchError as error:
            return refusal(502, request.url.host, str(error))


def refusal(status: int, host: str, why: str) -> Response:
    """A readable no."""
    return Response(f"pyinterceptor: {host}: {why}\n", status, {"content-type": "text/plain; charset=utf-8"})


