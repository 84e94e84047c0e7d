"""Decides a container's request, then lets a handler answer it, passes it on, or refuses it.

This module has every reason for a refusal that a client can read.
"""

from __future__ import annotations

import ipaddress
import time
from functools import partial
from typing import Any

from pyinterceptor._relay import lib
from pyinterceptor.app import copies
from pyinterceptor.app.container import Context
from pyinterceptor.app.handler import explain_asyncio, wrong_answer
from pyinterceptor.app.policy import Policy, Target
from pyinterceptor.errors import BindingError, DialRefused, FetchError, OtherRule, ungrouped
from pyinterceptor.http.fetch import FetchScope
from pyinterceptor.http.tunnel import Switched
from pyinterceptor.policy.addresses import Address
from pyinterceptor.policy.table import Decision
from pyinterceptor.relay.records import Cause
from pyinterceptor.relay.relay import Handoff
from pyinterceptor.serving.log import Faults
from pyinterceptor.serving.records import Reason, RequestRecord
from pyinterceptor.serving.run import Run
from pyinterceptor.web import Request, Response

REFUSED = 520  # the status of a refused request
METHOD_NOT_ALLOWED = 405
HANDLE = int(lib.VERDICT_HANDLE)

GUARDED = (REFUSED, "its address is local to the host, and local_networks doesn't name it")
CAUSES = {
    Cause.DIAL_FAILED: (502, "the host could not be reached"),
    Cause.DIAL_GUARD: GUARDED,
    Cause.NAME_UNKNOWN: (502, "the name does not resolve"),
}


class Outbound:
    """Answers the requests of one handed-off connection."""

    def __init__(self, run: Run, env: Any, event: Handoff) -> None:
        self._run = run
        self._env = env
        self._event = event
        self._destination = event.destination
        self._cause = event.cause  # the relay's failure, for the first request
        self._began: float | None = None  # start of this request, if its record is wanted
        self._answered: float | None = None
        # The last decision is cached: one policy decides the same host the same way.
        self._policy: Policy | None = None
        self._host = ""
        self._decision: Decision

    async def respond(self, request: Request) -> Response:
        """Decides this request by the policy in force, and answers it."""
        self._began = self._answered = None
        if self._run.recorder.channel.is_wanted(RequestRecord):
            self._began = time.monotonic()
        policy, host = self._run.identity.policies.now, request.host
        if policy is not self._policy or host != self._host:
            self._decision = policy.decide(lib.PROTOCOL_HTTP, host, self._destination)
            self._policy, self._host = policy, host
        cause, self._cause = self._cause, Cause.DONE
        if self._decision.verdict == HANDLE:
            response = await self._handle(request, policy.targets[self._decision.target])
        else:
            response = self._refusal(request, cause) or await self._pass(request)
        if self._began is not None:
            self._answered = time.monotonic()
        return response

    def ended(self, request: Request, status: int, sent: int, received: int) -> None:
        """Publishes the record of a request that has ended, answered or not."""
        if self._began is not None:
            self._run.recorder.request(
                request,
                self._decision,
                self._event,
                status=status,
                sent=sent,
                received=received,
                began=self._began,
                answered=self._answered,
            )

    def refused(self, status: int) -> None:
        """Records a request that the server answered with this status, because no handler can be given it."""
        reason = Reason.METHOD if status == METHOD_NOT_ALLOWED else Reason.MALFORMED
        self._run.recorder.refused_request(self._event, reason)

    def _refusal(self, request: Request, cause: Cause) -> Response | None:
        """Returns the refusal of a request without a handler; None if it passes. `cause` is the relay's failure."""
        if self._decision.verdict == lib.VERDICT_REFUSE:
            self._refused(request, Reason.RULE)
            return refusal(REFUSED, request.host, "no rule allows it")
        if cause not in CAUSES:
            return None
        if cause == Cause.DIAL_GUARD:
            self._refused(request, Reason.LOCAL)
        return refusal(CAUSES[cause][0], request.host, CAUSES[cause][1])

    async def _handle(self, request: Request, target: Target) -> Response:
        run, handler = self._run, target.handler
        if run.running >= run.budget.handlers:
            run.refused += 1
            self._refused(request, Reason.BUDGET)
            return Response("Too many handlers are running for this container.\n", 503, {"retry-after": "1"})
        run.running += 1
        scope, response = FetchScope(run.client), None
        try:
            with scope:
                answer = handler(request, self._env, self._context(target))
                answer = await answer if hasattr(answer, "__await__") else answer
            if not isinstance(answer, Response):
                raise wrong_answer(handler, answer)
            response = answer
            return response
        except (DialRefused, FetchError, BindingError, BaseExceptionGroup) as error:
            alone = ungrouped(error)
            if isinstance(alone, DialRefused):
                self._refused(request, Reason.LOCAL)
            reply = failed(request, alone, run.faults)
            if reply is None:
                raise
            return reply
        except (AttributeError, RuntimeError, TypeError) as error:
            explain_asyncio(error, handler)
            raise
        finally:
            run.running -= 1
            if scope.has_fetched:
                await scope.let_go(response)

    def _context(self, target: Target) -> Context:
        identity = self._run.identity
        return Context(
            identity.id,
            identity.cls.__name__,
            identity.name,
            None if target.params is None else copies.value_of(target.params),
            self._destination,
            identity.exports,
            self._run.begin_after,
        )

    async def _pass(self, request: Request) -> Response:
        """Sends the request to the address that the container dialled, whatever host the request names.

        A synthetic address, or a ruled host's that the container's DNS didn't give for this host, is replaced by the
        host's own addresses.
        """
        port = self._destination[1]
        try:
            at = await self._address_for(request.host)
            decides = partial(self._is_decided_alike, request.host)
            response = await self._run.client.pass_on(request, at=at, port=port, decides=decides)
            if isinstance(response, Switched):
                ip = response.exchange.connection.ip
                response.held = partial(self._run.tunnels.held, partial(self._is_tunnel_refused, request, ip))
            return response
        except OtherRule:
            self._refused(request, Reason.RULE)
            return refusal(REFUSED, request.host, "its addresses are under another rule")
        except DialRefused:
            self._refused(request, Reason.LOCAL)
            return refusal(GUARDED[0], request.host, GUARDED[1])
        except FetchError as error:
            self._run.faults.info("passing the request on failed", error, request)
            return refusal(502, request.host, str(error))

    async def _address_for(self, host: str) -> str | None:
        """Returns the address that was dialled; None if the request must go to its host's own addresses.

        Raises OtherRule if the host is an address itself, of a host with a rule.
        """
        run, (address, port) = self._run, self._destination
        said = literal(host)
        if said is not None and await run.known_standing(host, said, port) == lib.STANDING_RULED:
            raise OtherRule(f"connect to {host}: it is the address of a host that has a rule")
        is_free = address not in run.synthetic and await run.known_standing(host, address, port) == lib.STANDING_FREE
        return str(address) if is_free else None

    def _is_decided_alike(self, host: str, ip: str, port: int) -> bool:
        """Whether a request for `host` gets the same verdict from the same rule at this address as at the one dialled.

        Otherwise a name with two addresses, the first of them dead, would bypass a rule for the second.
        """
        policy = self._run.identity.policies.now
        sent = policy.decide(lib.PROTOCOL_HTTP, host, self._destination)
        there = policy.decide(lib.PROTOCOL_HTTP, host, (ipaddress.ip_address(ip), port))
        return sent.verdict == there.verdict == lib.VERDICT_SPLICE and sent.rule == there.rule

    def _is_tunnel_refused(self, request: Request, ip: str) -> bool:
        """Whether the policy in force refuses a tunnel that this request opened; then it is recorded as refused.

        A tunnel that the policy would give to a handler goes on, since a handler can't take it over.
        """
        policy = self._run.identity.policies.now
        origin = ipaddress.ip_address(ip), self._destination[1]
        for destination in (self._destination, origin):
            decision = policy.decide(lib.PROTOCOL_HTTP, request.host, destination)
            if decision.verdict == lib.VERDICT_REFUSE:
                self._run.recorder.refused_request(self._event, Reason.RULE, request, decision)
                return True
        return False

    def _refused(self, request: Request, reason: Reason) -> None:
        self._run.recorder.refused_request(self._event, reason, request, self._decision)


def failed(request: Request, error: BaseException, faults: Faults) -> Response | None:
    """Returns the answer to a request whose handler raised this error; None if the error is not of fetch or a binding.

    The answer does not name the host or resource that failed.
    """
    if isinstance(error, DialRefused | FetchError):
        faults.warning("the handler's fetch failed", error, request)
        status = REFUSED if isinstance(error, DialRefused) else 502
        return refusal(status, request.host, "its handler could not reach what it asked")
    if isinstance(error, BindingError):
        faults.warning("the handler's resource failed", error, request)
        return refusal(error.status, request.host, "its handler could not get or keep what was asked")
    return None


def literal(host: str) -> Address | None:
    """Returns the address that the host denotes; None if it is a name."""
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None


def refusal(status: int, host: str, why: str) -> Response:
    """Returns a refusal with a readable reason. That of a disallowed host begins as in Workers."""
    begin = "Origin is disallowed" if status == REFUSED else "pyinterceptor"
    return Response(f"{begin}: {host}: {why}\n", status)
