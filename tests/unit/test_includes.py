"""The files of cext include each other one way, and the pure ones do no I/O."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CEXT = ROOT / "cext"

# Pure files: bytes, numbers and time in, a result out.
PURE = [
    *("abi", "protocol", "addresses", "hosts", "layout", "rows", "policy", "guard"),
    *("reading", "slice", "frame", "chunks", "response", "content", "sniff", "names", "message"),
    *("cache", "nameservers", "timers", "places"),
    *("ports", "subject", "follow", "watch", "standing", "transitions"),
]
# Declarations that the phases share with the files that implement them.
DECLARED = ["records", "relay"]
# From left to right: a file includes only headers to its left, and its own.
ORDER = [
    *PURE,
    "range",
    *DECLARED,
    *("datagrams", "askers", "upstream", "resolver", "resolving", "answers", "waiting"),
    *("exchange", "alert"),
    *("judge", "route", "events", "dial", "container", "buffers", "connect", "move", "pump"),
    *("flow", "peek", "steps", "opening", "reaching", "passing", "thread", "accept", "state"),
]
# struct relay is read by all files that implement relay.h.
READS_STATE = {"accept", "container", "events", "records", "relay", "thread"}
# Sources that call to their right: a flow's loop peeks and calls the steps, a thread's loop accepts, records wake their
# reader, relay.c and resolver.c open and close everything.
UPWARDS = {
    ("resolver.c", "resolving"),
    *(("flow.c", "peek"), ("flow.c", "steps"), ("thread.c", "accept")),
    *(("records.c", "events"), ("relay.c", "events")),
}
PHASES = {"judge", "connect", "follow", "move"}

PURE_SOURCES = [*PURE, "judge"]
SYSTEM = {"endian.h", "stddef.h", "stdint.h", "string.h", "strings.h", "stdlib.h", "errno.h"}
SYSTEM |= {"pthread.h", "stdatomic.h"}
INET_PTON = {("hosts.c", "arpa/inet.h")}  # text to bytes and back: inet_pton(3), inet_ntop(3)


def files() -> list[Path]:
    return sorted(CEXT.glob("*.[ch]"))


def ours(path: Path) -> set[str]:
    return set(re.findall(r'^#include "(\w+)\.h"', path.read_text(), re.MULTILINE))


def systems(path: Path) -> set[str]:
    return set(re.findall(r"^#include <([\w/.]+)>", path.read_text(), re.MULTILINE))


def wrong_includes(path: Path) -> set[str]:
    here = ORDER.index(path.stem)
    return {
        name
        for name in ours(path)
        if ORDER.index(name) > here
        and (path.name, name) not in UPWARDS
        and not (name == "state" and path.suffix == ".c" and path.stem in READS_STATE)
    }


def test_every_file_has_its_place_in_the_order() -> None:
    assert {path.stem for path in files()} == set(ORDER) - {"abi"}
    assert len(set(ORDER)) == len(ORDER)


@pytest.mark.parametrize("path", files(), ids=lambda path: path.name)
def test_a_file_includes_only_headers_to_its_left(path: Path) -> None:
    assert not wrong_includes(path)


def test_every_exception_is_needed() -> None:
    upwards = {
        (path.name, name) for path in files() for name in ours(path) if ORDER.index(name) > ORDER.index(path.stem)
    }
    assert upwards >= UPWARDS
    assert {Path(name).stem for name, included in upwards if included == "state"} == READS_STATE - {"state"}


@pytest.mark.parametrize("path", [path for path in files() if path.stem in PURE_SOURCES], ids=lambda path: path.name)
def test_a_pure_file_does_no_io(path: Path) -> None:
    allowed = {*PURE_SOURCES, *DECLARED}
    assert ours(path) <= allowed
    wrong = {name for name in systems(path) if name not in SYSTEM and (path.name, name) not in INET_PTON}
    assert not wrong


@pytest.mark.parametrize("name", DECLARED)
def test_a_shared_declaration_includes_only_pure_headers(name: str) -> None:
    path = CEXT / f"{name}.h"
    assert ours(path) <= {*PURE, *DECLARED}
    assert not systems(path)


@pytest.mark.parametrize("name", sorted(PHASES))
def test_no_phase_knows_another(name: str) -> None:
    for path in (CEXT / f"{name}.c", CEXT / f"{name}.h"):
        assert not ours(path) & (PHASES - {name})
