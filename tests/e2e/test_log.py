"""Records and the log in real runs: their content, their container, and their safety from a hostile one."""

from __future__ import annotations

import re
import subprocess
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import trio

from pyinterceptor import App, Container, Options, Response, open_interceptor
from pyinterceptor.serving.records import (
    FlowRecord,
    NameRecord,
    Protocol,
    Reason,
    RefusalRecord,
    Refused,
    RequestRecord,
    Verdict,
)
from tests.e2e.test_run import APP, run
from tests.starting import started
from tests.world import ORIGIN_V4, World

TIME = 60.0  # seconds; nothing here takes nearly as long

# --- `run`: the closing line and -v ---


@pytest.fixture
def app(tmp_path: Path) -> str:
    path = tmp_path / "app.py"
    path.write_text(APP)
    return str(path)


def curl(*words: str) -> str:
    return "curl -s -o /dev/null -m 20 " + " ".join(words)


REFUSED = [
    curl("http://registry.example/"),
    curl("-H 'Host: x.example'", f"http://{ORIGIN_V4}/"),
    curl("-H 'Host: x.example'", f"http://{ORIGIN_V4}/"),
    curl("-k", f"--resolve example.org:443:{ORIGIN_V4}", "https://example.org/"),
    f"exec 3<>/dev/tcp/{ORIGIN_V4}/7; echo past >&3; cat <&3",
]
REFUSALS = (
    f"refused: 1 name (registry.example), 2 requests to x.example, 1 TLS to example.org, 1 connection to {ORIGIN_V4}:7"
)


def test_a_run_ends_with_a_line_of_its_refusals(app: str, world: World) -> None:
    ran = run(app, "--", "bash", "-c", "; ".join([*REFUSED, "exit 3"]))
    assert (ran.returncode, ran.stdout) == (3, b"")
    assert ran.stderr.decode().splitlines()[-1] == f"pyinterceptor: {REFUSALS}; -v lists them"


def test_a_verbose_run_lists_refusals_and_ends_with_the_same_line(app: str, world: World) -> None:
    lines = run("-v", app, "--", "bash", "-c", "; ".join(REFUSED)).stderr.decode().splitlines()
    assert lines[-1] == REFUSALS
    refused = [line for line in lines if line.startswith("Closed/run refused")]
    assert {" ".join(line.split()[2:4]) for line in refused} == {
        "name registry.example",
        "request x.example",
        "TLS example.org",
        "flow -",
    }


def lines_of(stderr: bytes) -> list[str]:
    """Returns the lines after the one that names the directories which are read-only inside."""
    lines = stderr.decode().splitlines()
    place = next(at for at, line in enumerate(lines) if "is read-only inside" in line)
    assert all("state is in" in line for line in lines[:place])
    return lines[place + 1 :]


def test_a_run_without_refusals_prints_nothing(app: str, world: World) -> None:
    assert lines_of(run(app, "--", *curl("http://my.kv/").split()).stderr) == []
    assert lines_of(run("--container", "Open", app, "--", *curl("http://origin.test/ok").split()).stderr) == []


def test_a_verbose_run_prints_a_line_a_request_and_a_flow_with_the_container_first(app: str, world: World) -> None:
    lines = lines_of(run("-v", app, "--", *curl("http://my.kv/path?q").split()).stderr)
    counts = r"sent=[1-9]\d* received=[1-9]\d* seconds=\d+\.\d{3}"
    request, flow = (
        f"Closed/run request HANDLE GET http://my.kv/path?q 200 rule=my.kv {counts}",
        rf"Closed/run flow HANDLE HTTP my.kv \S+:80 rule=my.kv cause=DONE {counts}",
    )
    assert re.fullmatch(request.replace("?", r"\?"), lines[0]), lines
    assert re.fullmatch(flow, lines[1]), lines
    assert len(lines) == 2


HELLO = r"""
import socket, sys
def hello(name):
    name = b"\0" + len(name).to_bytes(2, "big") + name
    names = len(name).to_bytes(2, "big") + name
    extension = b"\0\0" + len(names).to_bytes(2, "big") + names
    body = b"\3\3" + bytes(32) + b"\0" + b"\0\2\x13\1" + b"\1\0" + len(extension).to_bytes(2, "big") + extension
    handshake = b"\1" + len(body).to_bytes(3, "big") + body
    return b"\x16\3\1" + len(handshake).to_bytes(2, "big") + handshake
with socket.create_connection((sys.argv[1], 443), timeout=20) as connection:
    connection.sendall(hello(bytes.fromhex(sys.argv[2])))
    try:
        connection.recv(100)
    except OSError:
        pass
"""
FORGED = b"a.example\nClosed/run request HANDLE GET http://bank.example/ 200\x1b[2J\x1b]0;title\x07"


@pytest.mark.parametrize("cls", ["Closed", "Open"])
def test_a_server_name_can_neither_forge_a_line_nor_drive_the_terminal(cls: str, app: str, world: World) -> None:
    hello = ["/usr/bin/python3", "-c", HELLO, ORIGIN_V4, FORGED.hex()]
    for verbose in ([], ["-v"]):
        said = run(*verbose, "--container", cls, app, "--", *hello).stderr
        assert b"\x1b" not in said
        assert b"\x07" not in said
        assert not re.search(rb"^Closed/run request", said, re.MULTILINE)
    assert rb'"a.example\nClosed/run request HANDLE GET http://bank.example/ 200\x1b[2J\x1b]0;title\x07"' in said


def test_one_container_cannot_fill_the_log(app: str, world: World) -> None:
    script = f"for i in $(seq 100); do {curl(*['http://my.kv/?[1-20]'])} & wait; done"
    lines = run("-v", app, "--", "bash", "-c", script).stderr.decode().splitlines()
    left_out = [int(line.split()[1]) for line in lines if "lines left out" in line]
    written = [line for line in lines if line.startswith(("Closed/run request", "Closed/run flow"))]
    assert sum(left_out) > 0
    assert sum(left_out) + len(written) == 2000 + 100


# --- a peer's fault is no error ---

RESET = """
import socket, struct, sys
for data in (b"", b"\\0", b"\\0\\x1e\\x12\\x34", b"\\xff\\xff", b"\\0\\1\\0", bytes.fromhex(sys.argv[2])):
    with socket.create_connection((sys.argv[1], int(sys.argv[3])), timeout=20) as connection:
        connection.sendall(data)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
"""
QUESTION = bytes.fromhex("001b 1234 0100 0001 0000 0000 0000 026d79 026b76 00 0001 0001".replace(" ", ""))
REQUESTS = b"GET / HTTP/1.1\r\nHost: my.kv\r\n\r\n" * 50


@pytest.mark.parametrize(
    ("port", "data"), [(53, QUESTION * 50), (80, REQUESTS), (80, b"GET / HTTP/1.1\r\nHost: my.kv\r\n")]
)
def test_connections_that_are_reset_at_any_point_are_no_error(port: int, data: bytes, app: str, world: World) -> None:
    ran = run("-v", app, "--", "/usr/bin/python3", "-c", RESET, ORIGIN_V4, data.hex(), str(port))
    assert ran.returncode == 0
    assert b"Traceback" not in ran.stderr
    assert b"failed" not in ran.stderr


# --- records, as a program gets them ---


class Sandbox(Container):
    """Has a handler and the internet; may not reach the host."""


async def answer(request: Any, env: Any, ctx: Any) -> Response:
    return Response("answer " + await request.text())


Sandbox.outbound_by_host = {"my.kv": answer}


class Closed(Container):
    """No rules and no internet."""

    enable_internet = False


def recorded(
    instance: str, cls: type[Container], script: str, *kinds: type, options: Options | None = None
) -> list[Any]:
    """Returns the records of these kinds of a container that runs a shell script, up to its stop."""

    async def main() -> list[Any]:
        with trio.fail_after(TIME):
            async with (
                open_interceptor(App(containers=[cls]), instance=instance, options=options) as interceptor,
                interceptor.records(*kinds) as records,
            ):
                container = await started(interceptor, cls, "one")
                await container.exec(["bash", "-c", script])
                await container.stop()
                assert (records.dropped, records.dropped_refusals) == (0, 0)
                return records.take_nowait()

    return trio.run(main)


def test_a_handled_request_is_recorded_with_its_flow_and_name(world: World, instance: str) -> None:
    kinds = FlowRecord, RequestRecord, RefusalRecord, NameRecord
    made = recorded(instance, Sandbox, curl("-4 -d body http://my.kv/path"), *kinds)
    name, request, flow = made
    assert (name.name, name.kind, name.code, name.verdict) == ("my.kv", "A", "NOERROR", Verdict.HANDLE)
    assert (request.method, request.url, request.status) == ("POST", "http://my.kv/path", 200)
    assert (request.verdict, request.rule, request.flow) == (Verdict.HANDLE, "my.kv", flow.flow)
    assert request.sent > len("POST /path HTTP/1.1body")
    assert request.received > len("answer body")
    assert 0 <= request.answered <= request.ended < TIME
    assert (flow.verdict, flow.rule, flow.protocol) == (Verdict.HANDLE, "my.kv", Protocol.HTTP)
    assert flow.sent - request.sent in (0, 1)  # the kernel counts a FIN as a byte
    assert flow.received == request.received
    for record in made:
        assert (record.container.class_name, record.container.name) == ("Sandbox", "one")
        assert len(record.container.id) == 64


def test_a_request_that_could_not_be_passed_on_is_recorded_once(world: World, instance: str) -> None:
    (made,) = recorded(instance, Sandbox, curl("http://10.9.9.9/"), RequestRecord)
    assert (made.url, made.status, made.verdict) == ("http://10.9.9.9/", 520, Verdict.SPLICE)


def test_a_followed_request_is_recorded_by_the_relay(world: World, instance: str) -> None:
    made = recorded(instance, Sandbox, curl("http://origin.test/ok", "http://origin.test/ok"), RequestRecord)
    assert [(one.method, one.url, one.status) for one in made] == [("GET", "http://origin.test/ok", 200)] * 2
    assert {(one.verdict, one.rule) for one in made} == {(Verdict.SPLICE, "")}
    assert all(one.sent > 0 and one.received > 0 for one in made)
    assert len({one.flow for one in made}) == 1
    assert all(0 < one.answered <= one.ended < TIME for one in made)


def test_spliced_tls_is_recorded_with_its_server_name(world: World, instance: str) -> None:
    (flow,) = recorded(instance, Sandbox, curl("-k https://origin.test/ok"), FlowRecord)
    assert (flow.protocol, flow.host, flow.verdict) == (Protocol.TLS, "origin.test", Verdict.SPLICE)
    assert flow.destination[1] == 443
    assert flow.sent > 0
    assert 0 <= flow.judged <= flow.connected <= flow.ended < TIME


def test_each_refusal_is_recorded_with_its_kind(world: World, instance: str) -> None:
    made = recorded(instance, Closed, "; ".join(REFUSED), RefusalRecord)
    assert {(one.refused, one.host, one.reason) for one in made} == {
        (Refused.NAME, "registry.example", Reason.RULE),
        (Refused.REQUEST, "x.example", Reason.RULE),
        (Refused.TLS, "example.org", Reason.RULE),
        (Refused.FLOW, "", Reason.RULE),
    }
    made = recorded(instance, Sandbox, f"{curl('http://127.0.0.2:81/')}; {curl('http://10.9.9.9/')}", RefusalRecord)
    assert [(one.host, one.reason) for one in made] == [("10.9.9.9", Reason.LOCAL)]


def test_a_silent_client_that_is_refused_is_recorded_and_has_a_line(world: World, instance: str) -> None:
    script = f'bash -c "exec 3<>/dev/tcp/{ORIGIN_V4}/80; cat <&3"'
    made = recorded(instance, Closed, script, RefusalRecord, options=Options(opening_deadline=0.3))
    assert [(one.refused, one.reason, one.destination[1]) for one in made] == [(Refused.FLOW, Reason.DEADLINE, 80)]


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        ("GET / HTTP/1.1\\r\\nHost: a b\\r\\n\\r\\n", Reason.MALFORMED),
        ("TRACE / HTTP/1.1\\r\\nHost: my.kv\\r\\n\\r\\n", Reason.METHOD),
    ],
)
def test_a_request_that_no_handler_can_be_given_is_recorded(
    head: str, reason: Reason, world: World, instance: str
) -> None:
    ask = f"exec 3<>/dev/tcp/my.kv/80; printf '{head}' >&3; cat <&3"
    made = recorded(instance, Sandbox, f'bash -c "{ask}"', RefusalRecord)
    assert [(one.refused, one.reason, one.destination[1]) for one in made] == [(Refused.REQUEST, reason, 80)]


def test_the_rule_is_that_of_the_decision_also_after_the_rules_were_replaced(world: World, instance: str) -> None:
    hosts = {"b.kv": answer}

    async def main() -> FlowRecord:
        with trio.fail_after(TIME):
            async with (
                open_interceptor(App(containers=[Sandbox]), instance=instance) as interceptor,
                interceptor.records(FlowRecord) as records,
            ):
                container = await started(interceptor, Sandbox, "one")
                request = r"GET / HTTP/1.1\r\nHost: my.kv\r\n\r\n"
                script = f"exec 3<>/dev/tcp/my.kv/80; printf '{request}' >&3; head -1 <&3; read"
                pipe = subprocess.PIPE
                running = await container.start(["bash", "-c", script], stdin=pipe, stdout=pipe)
                assert (await running.stdout.receive_some()).startswith(b"HTTP/1.1 200")
                Sandbox.outbound_by_host = hosts
                await interceptor.replace_policy(Sandbox)
                await running.stdin.aclose()
                await running.wait()
                await running.aclose()
                return await anext(records)

    before = dict(Sandbox.outbound_by_host)
    try:
        assert trio.run(main).rule == "my.kv"
    finally:
        Sandbox.outbound_by_host = before


KINDS = (FlowRecord, RequestRecord, RefusalRecord, NameRecord)


@pytest.mark.parametrize("kinds", [(), KINDS])
def test_records_are_built_only_while_somebody_subscribes(
    kinds: tuple[type, ...], world: World, instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: set[type] = set()
    for kind in KINDS:
        count(kind, built, monkeypatch)
    scripts = {Sandbox: [curl("http://my.kv/"), curl("http://origin.test/ok")], Closed: REFUSED}

    async def main() -> None:
        with trio.fail_after(TIME):
            async with (
                open_interceptor(App(containers=[Sandbox, Closed]), instance=instance) as interceptor,
                interceptor.records(*kinds) if kinds else nullcontext(),
            ):
                for cls, script in scripts.items():
                    container = await started(interceptor, cls, "one")
                    await container.exec(["bash", "-c", "; ".join(script)])
                    await container.stop()

    trio.run(main)
    assert built == set(kinds)


def count(kind: type, built: set[type], monkeypatch: pytest.MonkeyPatch) -> None:
    """Adds `kind` to `built` when such a record is built."""
    make = kind.__init__

    def noted(self: Any, **values: Any) -> None:
        built.add(kind)
        make(self, **values)

    monkeypatch.setattr(kind, "__init__", noted)
