"""Builds records from the events of serving and of C. Only records with a subscriber are built."""

from __future__ import annotations

import time
from functools import partial

import dns.name
import dns.rcode
from dns.rdatatype import RdataType

from pyinterceptor._relay import lib
from pyinterceptor.app.policies import Policies
from pyinterceptor.dns.query import Query
from pyinterceptor.dns.resolver import Resolver
from pyinterceptor.policy.table import Decision
from pyinterceptor.relay import records as relayed
from pyinterceptor.relay.records import Cause, Kind
from pyinterceptor.relay.relay import Dropped, Handoff, Relay
from pyinterceptor.serving.channel import Channel
from pyinterceptor.serving.lines import shown_host
from pyinterceptor.serving.log import Faults
from pyinterceptor.serving.records import (
    REFUSALS,
    FlowRecord,
    NameRecord,
    Owner,
    Protocol,
    Reason,
    Record,
    RefusalRecord,
    Refused,
    RequestRecord,
    Verdict,
)
from pyinterceptor.web import Request

ENDED_KEPT = 1024  # runs that have ended: C may still have records of their flows
KINDS = {FlowRecord: Kind.FLOW | Kind.REFUSAL, RefusalRecord: Kind.REFUSAL, RequestRecord: Kind.REQUEST}
REFUSED = {Protocol.TLS: Refused.TLS, Protocol.HTTP: Refused.REQUEST}
TARGET_CUT = lib.RECORD_TARGET_MAX - 1


class Recorder:
    """Makes the records of one container. All times are of `time.monotonic()`."""

    def __init__(self, channel: Channel, owner: Owner, policies: Policies) -> None:
        self.channel = channel
        self.owner = owner
        self._policies = policies

    def name(self, query: Query, verdict: int, code: int, asked: float) -> None:
        """Records a DNS question that was answered."""
        if self.channel.is_wanted(NameRecord):
            now, policy = time.monotonic(), self._policies.now
            decision = policy.decide(lib.PROTOCOL_HTTP, query.host, None)
            self.channel.publish(
                NameRecord(
                    container=self.owner,
                    name=_name(query),
                    kind=RdataType.to_text(RdataType.make(query.kind)),
                    code=dns.rcode.to_text(dns.rcode.Rcode(code)),
                    verdict=Verdict(verdict),
                    rule=self._rule(decision.generation, decision.rule),
                    generation=decision.generation,
                    began=_wall(asked),
                    ended=now - asked,
                )
            )
        if verdict == lib.VERDICT_REFUSE and code == dns.rcode.NXDOMAIN:
            self.refused_name(query, Reason.RULE)

    def refused_name(self, query: Query, reason: Reason) -> None:
        """Records a DNS question that was refused."""
        if self.channel.is_wanted(RefusalRecord):
            self.channel.publish(
                RefusalRecord(
                    container=self.owner,
                    refused=Refused.NAME,
                    reason=reason,
                    host=_name(query),
                    destination=None,
                    kind=RdataType.to_text(RdataType.make(query.kind)),
                    url="",
                    rule="",
                    generation=self._policies.now.generation,
                    began=time.time(),
                )
            )

    def refused_request(
        self, event: Handoff, reason: Reason, request: Request | None = None, decision: Decision | None = None
    ) -> None:
        """Records a request of this flow that is refused, by default before it could be read."""
        if self.channel.is_wanted(RefusalRecord):
            decided = decision or event
            self.channel.publish(
                RefusalRecord(
                    container=self.owner,
                    refused=Refused.REQUEST,
                    reason=reason,
                    host=request.host if request else event.host,
                    destination=event.destination,
                    kind=request.method if request else "",
                    url=str(request.url) if request else "",
                    rule=self._rule(decided.generation, decided.rule),
                    generation=decided.generation,
                    began=time.time(),
                )
            )

    def request(
        self,
        request: Request,
        decision: Decision,
        event: Handoff,
        *,
        status: int,
        sent: int,
        received: int,
        began: float,
        answered: float | None,
    ) -> None:
        """Records a request that has ended. Call it only if the request began with a subscriber."""
        self.channel.publish(
            RequestRecord(
                container=self.owner,
                flow=event.flow,
                method=request.method,
                url=str(request.url),
                status=status,
                destination=event.destination,
                verdict=Verdict(decision.verdict),
                rule=self._rule(decision.generation, decision.rule),
                generation=decision.generation,
                sent=sent,
                received=received,
                began=_wall(began),
                answered=None if answered is None else answered - began,
                ended=time.monotonic() - began,
            )
        )

    def flow(self, event: Handoff, cause: Cause, sent: int, received: int) -> None:
        """Records the end of a flow that was handed to Python."""
        if self.channel.is_wanted(FlowRecord):
            self.channel.publish(
                FlowRecord(
                    container=self.owner,
                    flow=event.flow,
                    protocol=Protocol(event.protocol),
                    host=event.host,
                    client=event.client,
                    destination=event.destination,
                    verdict=Verdict(event.verdict),
                    rule=self._rule(event.generation, event.rule),
                    generation=event.generation,
                    cause=cause,
                    sent=sent,
                    received=received,
                    began=_wall(event.began),
                    judged=_after(event.began, event.judged),
                    connected=_after(event.began, event.connected),
                    ended=time.monotonic() - event.began,
                )
            )

    def from_relay(self, made: relayed.Record) -> None:
        """Publishes a record that C made."""
        for record in self._of_relay(made):
            if self.channel.is_wanted(type(record)):
                self.channel.publish(record)

    def _of_relay(self, made: relayed.Record) -> list[Record]:
        if made.kind == Kind.REQUEST:
            return [self._relayed_request(made)]
        records: list[Record] = [self._relayed_flow(made)]
        if made.cause in REFUSALS:
            records.insert(0, self._relayed_refusal(made))
        return records

    def _relayed_request(self, made: relayed.Record) -> RequestRecord:
        target = made.request_target + ("…" if len(made.request_target) == TARGET_CUT else "")
        return RequestRecord(
            container=self.owner,
            flow=made.flow,
            method=made.method,
            url=f"http://{made.host}{target}" if target.startswith("/") else target,
            status=made.status,
            destination=made.destination,
            verdict=Verdict(made.verdict),
            rule=self._rule(made.generation, made.rule),
            generation=made.generation,
            sent=made.sent,
            received=made.received,
            began=_wall(made.began),
            answered=_after(made.began, made.answered),
            ended=made.ended - made.began,
        )

    def _relayed_flow(self, made: relayed.Record) -> FlowRecord:
        return FlowRecord(
            container=self.owner,
            flow=made.flow,
            protocol=Protocol(made.protocol),
            host=made.host,
            client=made.client,
            destination=made.destination,
            verdict=Verdict(made.verdict),
            rule=self._rule(made.generation, made.rule),
            generation=made.generation,
            cause=made.cause,
            sent=made.sent,
            received=made.received,
            began=_wall(made.began),
            judged=_after(made.began, made.judged),
            connected=_after(made.began, made.connected),
            ended=made.ended - made.began,
        )

    def _relayed_refusal(self, made: relayed.Record) -> RefusalRecord:
        return RefusalRecord(
            container=self.owner,
            refused=REFUSED.get(Protocol(made.protocol), Refused.FLOW),
            reason=REFUSALS[made.cause],
            host=made.host,
            destination=made.destination,
            kind=made.method,
            url="",
            rule=self._rule(made.generation, made.rule),
            generation=made.generation,
            began=_wall(made.ended),
        )

    def _rule(self, generation: int, rule: int) -> str:
        """Returns the rule's name in the policy of that generation: "" for no rule, `#number` if the policy is gone."""
        if rule == lib.NO_RULE:
            return ""
        policy = self._policies.of(generation)
        return f"#{rule}" if policy is None else policy.rule_name(rule).removeprefix("-")


class Questions:
    """Builds the records of one container's DNS questions, and logs failures of this package."""

    def __init__(self, recorder: Recorder, faults: Faults) -> None:
        self._recorder = recorder
        self._faults = faults

    def answered(self, query: Query, verdict: int, code: int, asked: float) -> None:
        """Reports that a question was answered. `asked` is of `time.monotonic()`."""
        self._recorder.name(query, verdict, code, asked)

    def over_budget(self, query: Query) -> None:
        """Reports that a question was refused, because the container's budget is used up."""
        self._recorder.refused_name(query, Reason.BUDGET)

    def failed(self, query: Query, error: Exception) -> None:
        """Reports that this package failed to answer a question."""
        self._faults.error(f"DNS query for {shown_host(_name(query))}: failed", error)


class Recording:
    """The records of one interceptor: their channel, and the way from C's rings to it."""

    def __init__(self, relay: Relay, resolver: Resolver) -> None:
        self.channel = Channel(self._subscribe)
        self._relay = relay
        self._resolver = resolver
        resolver.dropped = partial(self.channel.lose, NameRecord)
        self._recorders: dict[int, Recorder] = {}  # by number of the run
        self._ended: list[int] = []
        self._dropped = Dropped(0, 0, 0)

    def begin(self, number: int, recorder: Recorder) -> None:
        """Adds a run. C knows its flows by this number."""
        self._recorders[number] = recorder

    def end(self, number: int) -> None:
        """Publishes the waiting records and ends a run. Late records are published for the last ENDED_KEPT runs."""
        self._take()
        self._ended.append(number)
        if len(self._ended) > ENDED_KEPT:
            self._recorders.pop(self._ended.pop(0), None)

    async def run(self) -> None:
        """Publishes the records that C makes, until cancelled."""
        async for batch in self._relay.records():
            self._publish(batch)

    def _take(self) -> None:
        while batch := self._relay.records_nowait():
            self._publish(batch)

    def _publish(self, batch: list[relayed.Record]) -> None:
        for made in batch:
            recorder = self._recorders.get(made.container)
            if recorder is not None:
                recorder.from_relay(made)
        self._count_dropped()

    def _count_dropped(self) -> None:
        """Reports the records that C's full rings dropped as missed by every subscriber of their kind."""
        before, now = self._dropped, self._relay.count_dropped()
        self._dropped = now
        self.channel.lose(FlowRecord, now.flows - before.flows)
        self.channel.lose(RefusalRecord, now.refusals - before.refusals)
        self.channel.lose(RequestRecord, now.requests - before.requests)

    def _subscribe(self, wanted: frozenset[type[Record]]) -> None:
        kinds = Kind.NONE
        for kind in wanted:
            kinds |= KINDS.get(kind, Kind.NONE)
        self._relay.subscribe(kinds)
        self._resolver.observe(not wanted.isdisjoint((NameRecord, RefusalRecord)))


def _wall(moment: float) -> float:
    """Converts a moment of CLOCK_MONOTONIC to seconds since 1970."""
    return time.time() - time.monotonic() + moment


def _after(began: float, moment: float) -> float | None:
    """Returns the seconds from `began` to `moment`; None if `moment` is 0, which means never."""
    return moment - began if moment else None


def _name(query: Query) -> str:
    return query.host or dns.name.Name((*query.labels, b"")).to_text(omit_final_dot=True)
