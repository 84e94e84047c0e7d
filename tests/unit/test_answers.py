"""Queries that are parsed, and answers that are built; dnspython reads and writes the other side."""

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rrset
import pytest
from dns.rdatatype import AAAA, CNAME, HTTPS, SOA, A, RdataType
from hypothesis import given
from hypothesis import strategies as st
from pyinterceptor._relay import ffi, lib

from pyinterceptor.dns.answers import reply
from pyinterceptor.dns.query import HEADER, Query, read
from pyinterceptor.errors import PeerError

UDP_MAX = lib.UDP_ANSWER_MAX

LABELS = st.lists(st.binary(min_size=1, max_size=63), max_size=6).filter(lambda some: sum(map(len, some)) < 240)


def asked(name, kind="A", **options):
    return dns.message.make_query(name, kind, **options)


def answered(wire):
    return dns.message.from_wire(wire)


@given(LABELS, st.integers(1, 40), st.sampled_from([None, 512, 1232, 4096]))
def test_any_name_is_read_and_repeated_letter_by_letter(labels, kind, payload):
    edns = {} if payload is None else {"use_edns": 0, "payload": payload}
    sent = asked(dns.name.Name((*labels, b"")), RdataType.make(kind), **edns)
    query = read(sent.to_wire())
    assert (query.labels, query.kind, query.payload, query.code) == (tuple(labels), kind, payload or 0, 0)
    got = answered(reply(query))
    assert sent.is_response(got)
    assert got.question[0].name.labels[:-1] == tuple(labels)
    assert got.flags == dns.flags.QR | dns.flags.RA | dns.flags.RD
    assert got.edns == (-1 if payload is None else 0)


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("My.KV", "my.kv"),
        ("my.kv.", "my.kv"),
        ("_sip._tcp.example", "_sip._tcp.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("localhost", "localhost"),
        (".", ""),
        (r"a\.b.kv", ""),
        (r"my\032kv", ""),
        (r"my.kv\058443", ""),
        (r"b\195\188cher.example", ""),
        ("-my.kv", ""),
        ("203.0.113.7", ""),
        (r"*.kv", ""),
        (r"\000.kv", ""),
    ],
)
def test_only_a_host_name_is_one(name, host):
    assert read(asked(name).to_wire()).host == host


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda sent: sent.set_opcode(dns.opcode.NOTIFY), dns.rcode.NOTIMP),
        (lambda sent: sent.set_opcode(dns.opcode.UPDATE), dns.rcode.NOTIMP),
        (lambda sent: sent.question.clear(), dns.rcode.FORMERR),
        (lambda sent: sent.question.append(asked("b.kv").question[0]), dns.rcode.FORMERR),
        (lambda sent: sent.answer.append(dns.rrset.from_text("a.kv.", 1, "IN", "A", "203.0.113.1")), dns.rcode.FORMERR),
        (lambda sent: sent.use_edns(1), dns.rcode.BADVERS),
    ],
    ids=["notify", "update", "no question", "two questions", "an answer within", "EDNS 1"],
)
def test_a_query_of_another_form_gets_its_error_code(change, code):
    sent = asked("a.kv")
    change(sent)
    got = answered(reply(read(sent.to_wire()), read(sent.to_wire()).code))
    assert (got.id, got.rcode(), got.opcode()) == (sent.id, code, sent.opcode())
    assert read(asked("a.kv").to_wire()).code == dns.rcode.NOERROR


@pytest.mark.parametrize("kind", ["AXFR", "IXFR", "TSIG", "TKEY", "OPT", "MAILB"])
def test_a_meta_type_is_not_implemented(kind):
    assert read(asked("a.kv", kind).to_wire()).code == dns.rcode.NOTIMP


@pytest.mark.parametrize("rdclass", ["CH", "HS", "NONE", "ANY"])
def test_another_class_than_the_internet_is_refused(rdclass):
    assert read(asked("version.bind", "TXT", rdclass=rdclass).to_wire()).code == dns.rcode.REFUSED


def test_compression_in_a_question_is_an_error():
    header, rest = asked("a.kv").to_wire()[:12], asked("a.kv").to_wire()[12:]
    for name in (b"\xc0\x0c", b"\xc0\x0e\x00", b"\x01a\xc0\x0c", b"\x40a\x00", b"\x80a\x00"):
        assert read(header + name + rest[-4:]).code == dns.rcode.FORMERR


def test_a_name_of_255_bytes_is_the_longest():
    longest = dns.name.Name([b"a" * 63] * 3 + [b"a" * 61, b""])
    assert len(longest.to_wire()) == 255
    wire = asked(longest).to_wire()
    assert read(wire).code == dns.rcode.NOERROR
    assert read(wire[:12] + b"\x01b" + wire[12:]).code == dns.rcode.FORMERR


def test_a_query_cut_anywhere_is_an_error_or_nothing():
    wire = asked("my.kv", use_edns=0).to_wire()
    question_end = 12 + 7 + 4
    for end in range(len(wire)):
        if end < 12:
            with pytest.raises(PeerError):
                read(wire[:end])
        elif end < question_end:
            assert read(wire[:end]).code == dns.rcode.FORMERR
        else:
            assert (read(wire[:end]).host, read(wire[:end]).payload) == ("my.kv", 0)


def test_an_answer_is_not_answered():
    with pytest.raises(PeerError):
        read(dns.message.make_response(asked("my.kv")).to_wire())


@given(st.data())
def test_a_damaged_query_gets_a_well_formed_answer_or_none(data):
    wire = bytearray(asked("some.name.my.kv", use_edns=0).to_wire())
    for _ in range(data.draw(st.integers(1, 5))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    wire += data.draw(st.binary(max_size=20))
    try:
        query = read(bytes(wire))
    except PeerError:
        return
    got = answered(reply(query, query.code))
    assert (got.id, got.rcode()) == (int.from_bytes(wire[:2], "big"), query.code)


def upstream(*records, name="www.example.test", kind="A"):
    """Returns the answer of a server upstream; records are ("owner", "type", "value", …)."""
    response = dns.message.make_response(asked(name, kind), recursion_available=True)
    for owner, of, *values in records:
        response.answer.append(dns.rrset.from_text(owner, 30, "IN", of, *values))
    return response


def read_answer(wire, number, question):
    """Returns the facts of an answer, and the answer; None if it doesn't answer the question."""
    facts = ffi.new("struct answer *")
    if not lib.answer_read(wire, len(wire), number, question, len(question), facts):
        return None
    return facts, bytes(wire)


def folded(question):
    return question[:-4].lower() + question[-4:]


def taken(response):
    """Returns the answer that is read from a response."""
    wire = response.to_wire(max_size=65535)
    question = folded(wire[HEADER : HEADER + len(response.question[0].name.to_wire()) + 4])
    answer = read_answer(wire, response.id, question)
    assert answer is not None
    return answer


def passed(sent, answer, age=0, *, v6=True, udp=True):
    """Returns the bytes of the answer for the container that has sent this query."""
    asked, wire = ffi.new("struct question *"), sent.to_wire()
    assert lib.question_read(wire, len(wire), asked)
    limit = lib.answer_limit(asked) if udp else lib.MESSAGE_MAX
    to = ffi.new("struct passing_on *", (limit, age, v6))
    out = ffi.new("uint8_t[]", limit)
    size = lib.answer_write(answer[1], len(answer[1]), asked, wire[HEADER:], to, out)
    assert size <= limit
    return ffi.buffer(out, size)[:]


def addresses(response):
    """Returns the values of the A and AAAA records."""
    return [record.address for records in response.answer if records.rdtype in (A, AAAA) for record in records]


def test_upstreams_answer_keeps_its_chain_and_the_askers_letters():
    sent = asked("WWW.eXample.test", use_edns=0)
    response = upstream(
        ("www.example.test.", "CNAME", "real.example.test."), ("real.example.test.", "A", "203.0.113.7", "203.0.113.8")
    )
    response.additional.append(dns.rrset.from_text("other.test.", 30, "IN", "A", "203.0.113.9"))
    got = answered(passed(sent, taken(response)))
    assert sent.is_response(got)
    assert got.question[0].name.to_text() == "WWW.eXample.test."
    assert [records.rdtype for records in got.answer] == [CNAME, A]
    assert sorted(addresses(got)) == ["203.0.113.7", "203.0.113.8"]
    assert got.additional == []


def test_upstreams_no_keeps_its_code_and_authority():
    response = upstream()
    response.set_rcode(dns.rcode.NXDOMAIN)
    soa = "ns.example.test. root.example.test. 1 2 3 4 5"
    response.authority.append(dns.rrset.from_text("example.test.", 30, "IN", "SOA", soa))
    got = answered(passed(asked("www.example.test"), taken(response)))
    assert got.rcode() == dns.rcode.NXDOMAIN
    assert [records.rdtype for records in got.authority] == [SOA]


@pytest.mark.parametrize(("v6", "kinds"), [(True, [CNAME, AAAA, HTTPS]), (False, [CNAME])])
def test_a_host_without_v6_names_no_v6_address(v6, kinds):
    response = upstream(
        ("www.example.test.", "CNAME", "real.example.test."),
        ("real.example.test.", "AAAA", "2001:db8::7"),
        ("real.example.test.", "HTTPS", "1 . ipv6hint=2001:db8::7"),
    )
    got = answered(passed(asked("www.example.test"), taken(response), v6=v6))
    assert [records.rdtype for records in got.answer] == kinds
    assert got.rcode() == dns.rcode.NOERROR
    assert len(response.answer) == 3  # the response is shared with other queries


@pytest.mark.parametrize(
    ("payload", "count", "fits"),
    [(0, 25, True), (0, 35, False), (100, 25, True), (1232, 60, True), (4096, 80, False), (65535, 80, False)],
)
def test_over_udp_an_answer_is_whole_or_marked_truncated(payload, count, fits):
    edns = {"use_edns": 0, "payload": payload} if payload else {}
    query = asked("www.example.test", **edns)
    response = upstream(("www.example.test.", "A", *(f"203.0.113.{number}" for number in range(count))))
    wire = passed(query, taken(response))
    assert len(wire) <= min(max(payload, 512), UDP_MAX)
    assert bool(answered(wire).flags & dns.flags.TC) is not fits
    assert (len(addresses(answered(wire))) == count) is fits
    assert len(addresses(answered(wire))) >= 25
    whole = answered(passed(query, taken(response), udp=False))
    assert (len(addresses(whole)), whole.flags & dns.flags.TC) == (count, 0)


def test_a_record_of_our_own_is_the_questions():
    sent = asked("My.kv")
    got = answered(reply(read(sent.to_wire()), record=bytes([198, 18, 1, 0])))
    assert [str(records) for records in got.answer] == ["My.kv. 60 IN A 198.18.1.0"]
    assert Query(1, 0, dns.rcode.NOERROR).host == ""


def denial(ttl, minimum, code=dns.rcode.NXDOMAIN, records=()):
    response = upstream(*records)
    response.set_rcode(code)
    soa = f"ns.example.test. root.example.test. 1 2 3 4 {minimum}"
    response.authority.append(dns.rrset.from_text("example.test.", ttl, "IN", "SOA", soa))
    return response


@pytest.mark.parametrize(
    ("response", "seconds"),
    [
        (upstream(("www.example.test.", "A", "203.0.113.7")), 30),
        (upstream(("www.example.test.", "CNAME", "a.test."), ("a.test.", "A", "203.0.113.7")), 30),
        (denial(100, 20), 20),
        (denial(10, 20), 10),
        (denial(10**6, 10**6), 3 * 3600),
        (denial(100, 90, dns.rcode.NOERROR, [("www.example.test.", "CNAME", "a.test.")]), 30),
        (denial(100, 20, dns.rcode.NOERROR), 20),
        (denial(100, 20, dns.rcode.SERVFAIL), 0),
        (upstream(), 0),
    ],
    ids=["records", "a chain", "minimum", "SOA", "long", "a chain to nothing", "no record", "an error", "without SOA"],
)
def test_an_answer_is_kept_as_long_as_its_records_permit(response, seconds):
    assert taken(response)[0].ttl == seconds


def test_an_answer_that_grows_old_has_lower_ttls_and_other_letters():
    records = ("www.example.test.", "CNAME", "real.example.test."), ("real.example.test.", "A", "203.0.113.7")
    answer = taken(upstream(*records))
    for age, ttl in ((0, 30), (29, 1), (31, 0)):
        got = answered(passed(asked("wWw.example.test"), answer, age))
        assert [records.ttl for records in got.answer] == [ttl, ttl]
        assert got.answer[0].name.to_text() == "wWw.example.test."


@pytest.mark.parametrize(
    "change",
    [
        lambda wire: wire[:2] + b"\1" + wire[3:],  # a query
        lambda wire: b"\0\0" + wire[2:],
        lambda wire: wire.replace(b"www", b"wwx", 1),
        lambda wire: wire[:-1],
        lambda wire: wire[:11],
    ],
    ids=["a query", "another id", "another name", "cut", "no header"],
)
def test_a_message_that_answers_another_question_is_none(change):
    response = upstream(("www.example.test.", "A", "203.0.113.7"))
    response.id = 7
    wire, question = response.to_wire(), asked("www.example.test").to_wire()[HEADER:]
    assert read_answer(wire, 7, question) is not None
    assert read_answer(change(wire), 7, question) is None


@given(st.data())
def test_a_damaged_answer_is_passed_on_within_its_limit_or_refused(data):
    response = upstream(
        ("www.example.test.", "CNAME", "real.example.test."),
        ("real.example.test.", "A", "203.0.113.7", "203.0.113.8"),
        ("real.example.test.", "AAAA", "2001:db8::7"),
    )
    wire = bytearray(response.to_wire())
    for _ in range(data.draw(st.integers(1, 5))):
        wire[data.draw(st.integers(2, len(wire) - 1))] = data.draw(st.integers(0, 255))
    query = asked("www.example.test", use_edns=0)
    answer = read_answer(bytes(wire), response.id, folded(read(query.to_wire()).question))
    if answer is not None:
        for v6 in (True, False):
            assert len(passed(query, answer, v6=v6)) <= UDP_MAX
