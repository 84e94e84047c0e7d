"""Feeds the C parsers random input for a few seconds each, under ASan and UBSan. `./dev fuzz` does it for longer."""

import subprocess
from pathlib import Path

import pytest

from pyinterceptor.policy.rules import Rules
from pyinterceptor.policy.table import compile
from tests.unit.test_sniff import client_hello, in_records

ROOT = Path(__file__).parents[2]
SECONDS = 4
PURE = ("addresses", "hosts", "layout", "rows", "policy", "guard", "sniff", "frame", "chunks", "response")
PURE += ("message", "watch")
HOSTS = {pattern: 0 for pattern in ("my.kv", "*.kv", "*.my.kv", "my.*", "m*v", "203.0.113.7", "64:ff9b::1")}
TABLE = compile(Rules(HOSTS, 0, True, ("10.0.0.0/8", "10.1.0.0/16")), 1)
HELLO = client_hello("my.kv", ["h2"])
SEEDS = {
    "sniff": [
        b"GET / HTTP/1.1\r\nHost: my.kv\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        HELLO,
        in_records(HELLO, 100),
        b"A" * 33 + b" http://my.kv/ HTTP/1.1\r\nHost: my.kv\r\n\r\n",
        b"CONNECT my.kv:443 HTTP/1.1\r\nHost: my.kv:443\r\n\r\n",
        b"\r\n get\thttp://a@[::1]:80/ HTTP/1.0\n\n",
    ],
    "frame": [
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"3;a=b\r\nabc\r\n0\r\nt: 1\r\n\r\n",
        b"GET http://my.kv/ HTTP/1.1\r\nHost: my.kv\r\n\r\n",
        b"GET /\xc3\xa4 HTTP/1.1\r\nHost: a\r\n\r\nCONNECT my.kv:443 HTTP/1.1\r\nHost: my.kv\r\n\r\n",
    ],
    "watch": [
        b"GET /\xc3\xa4 HTTP/1.1\r\nHost: a\r\n\r\nGET http://a@my.kv:80/ HTTP/1.1\r\n\r\n",
        b"A" * 40 + b" / HTTP/1.1\n\n connect\t[::1]:443\n\0",
        b"GET http://" + b"a" * 300 + b"@my.kv\n",
    ],
    "message": [
        bytes.fromhex("000701000001000000000001") + b"\3www\7example\4test\0\0\1\0\1\0\0\x29\4\xd0\0\0\0\0\0\0",
        bytes.fromhex("000781800001000100000000")
        + b"\3www\7example\4test\0\0\1\0\1\xc0\x0c\0\1\0\1\0\0\0\x1e\0\4\xcb\0\x71\7",
        bytes.fromhex("000781800001000100000000") + b"\xc0\x0c\0\1\0\1\0\0\0\x1e\0\4\xcb\0\x71\7",
    ],
    "response": [
        b"\x03HTTP/1.1 200 OK\nContent-Length: 2, 2\r\nX: y\n folded\r\nConnection: close\r\n\r\nok",
        b"\x80HTTP/1.0 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n3 ;a\r\nabc\r\n0\r\n\r\n",
        b"\x1fICY 200 OK\r\nX: " + b"y" * 17_000 + b"\r\n\r\n",
        b"\x05 3 ;a=b\r\nabc\r\n0\r\nt u: 1\r\n\r\n",
    ],
    "policy": [b"[2001:db8::1]:80", b"my.kv.:8080", TABLE],
}


@pytest.mark.parametrize("name", SEEDS)
def test_random_input_breaks_no_parser(name, tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(SEEDS[name]):
        (corpus / str(number)).write_bytes(seed)
    target = tmp_path / "target"
    flags = ["-g", "-O1", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-fsanitize=fuzzer,address,undefined"]
    sources = [ROOT / "cext" / f"{source}.c" for source in PURE]
    subprocess.run(
        [
            *("clang-14", *flags, "-fno-sanitize-recover=undefined", f"-I{ROOT / 'cext'}", "-o", target),
            *(ROOT / "tests" / "fuzz" / f"fuzz_{name}.c", *sources),
        ],
        check=True,
    )
    ran = subprocess.run(
        [target, f"-max_total_time={SECONDS}", f"-artifact_prefix={tmp_path}/", corpus], capture_output=True
    )
    assert ran.returncode == 0, ran.stderr[-3000:].decode("utf-8", "replace")
