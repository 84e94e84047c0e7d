"""Measures the cost of a decision in C, by the size of the policy, and of building its table.

Hits and misses are random ones among 4 000 hosts, so that the table is not in the nearest cache. Means and builds are
processor time. `stall` is the longest piece of the build: nothing else runs on Trio's thread meanwhile.
"""

from __future__ import annotations

import gc
import random
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.results import debian, publish, table
from pyinterceptor.policy.addresses import network
from pyinterceptor.policy.layout import Layout, Outcome, Stage, Takes, assembled
from pyinterceptor.policy.pieces import Pieces, batches
from pyinterceptor.policy.rows import SPOKEN, Row, compiled

HERE = Path(__file__).parent
SOURCES = ("addresses", "hosts", "layout", "rows", "policy")
ROUNDS = 50
HOSTS = 4000  # that are asked for
Keys = Sequence[str]


def names(count: int) -> Keys:
    return [f"{number * 7919 % 104729:x}.host-{number}.test" for number in range(count)]


def suffixes(count: int) -> Keys:
    return ["*." + name for name in names(count)]


def prefixes(count: int) -> Keys:
    return [name + ".*" for name in names(count)]


def globs(count: int) -> Keys:
    return [f"a*{number}.test" for number in range(count)]


def networks(count: int) -> Keys:
    return [f"{10 + number // 65536}.{number // 256 % 256}.{number % 256}.0/24" for number in range(count)]


def misses(count: int) -> Keys:
    return [f"x{number * 6007 % 99991:x}.other-{number}.test" for number in range(count)]


def stage(keys: Keys) -> Pieces[Stage]:
    """A stage that gives its rows to one target."""
    rows = []
    for batch in batches(enumerate(keys)):
        for rank, key in batch:
            rows.append(Row(network(key)[0] if "/" in key else key, rank, rank, 0, protocols=SPOKEN))
        yield
    return Stage((yield from compiled(rows)), Outcome.TARGET, Outcome.NEXT)


def build(stages: Sequence[Keys]) -> Pieces[bytes]:
    made = []
    for keys in stages:
        made.append((yield from stage(keys)))
    empty = yield from compiled([])
    made.append(Stage(empty, Outcome.REFUSE, Outcome.SPLICE))
    return assembled(Layout(made, (Takes.HTTP,), (80, 443), empty), 1)


def timed(pieces: Pieces[bytes]) -> tuple[bytes, float, float]:
    """The table, the seconds of processor time that it took, and those of its longest piece."""
    gc.collect()
    gc.freeze()  # or a pass of the collector over an earlier question's objects would count
    took = []
    while True:
        before = time.thread_time()
        try:
            next(pieces)
        except StopIteration as end:
            took.append(time.thread_time() - before)
            return end.value, sum(took), max(took)
        took.append(time.thread_time() - before)


def hits(keys: Keys) -> Keys:
    """A host that each of these, taken at random, holds."""
    chosen = random.Random(1).choices(keys, k=HOSTS)
    return [key.replace("/24", "").replace("*", "b") for key in chosen]


def questions() -> Iterator[tuple[str, Sequence[Keys], Keys]]:
    """What is decided, the stages, and the hosts that are asked for."""
    for count in (100, 10_000):
        yield f"{count} names, hit", [names(count)], hits(names(count))
        yield f"{count} names, miss", [names(count)], misses(HOSTS)
    for form in (suffixes, prefixes):
        yield f"10000 {form(1)[0][:2]}… globs of one star, hit", [form(10_000)], hits(form(10_000))
        yield f"10000 {form(1)[0][:2]}… globs of one star, miss", [form(10_000)], misses(HOSTS)
    yield "100 globs of other forms, miss", [globs(100)], misses(HOSTS)
    yield "100000 networks, hit", [networks(100_000)], hits(networks(100_000))
    yield "100000 networks, miss", [networks(100_000)], misses(HOSTS)
    many = [misses(100)[:5], names(10_000), suffixes(1000), networks(100_000), [], []]
    yield "ten stages, 10000 names, 100000 networks, hit", many, hits(names(10_000))
    yield "ten stages, 10000 names, 100000 networks, miss", many, [f"z.{host}" for host in misses(HOSTS)]


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        program, place, asked = (str(Path(directory, name)) for name in ("decide", "table", "hosts"))
        sources = [HERE / "decide.c", *(HERE.parent / "cext" / f"{name}.c" for name in SOURCES)]
        subprocess.run(["gcc", "-O2", f"-I{HERE.parent / 'cext'}", "-o", program, *map(str, sources)], check=True)
        for question, stages, hosts in questions():
            blob, seconds, stall = timed(build(stages))
            Path(place).write_bytes(blob)
            Path(asked).write_text("\n".join(hosts))
            ran = subprocess.run([program, place, asked, str(ROUNDS)], check=True, capture_output=True, text=True)
            mean, late, _ = ran.stdout.split()
            size = f"{len(blob) / 1024:.0f} KiB"
            building = f"{seconds * 1e3:.0f} ms", f"{stall * 1e3:.1f} ms", size
            rows.append([question, f"{mean} ns", f"{late} ns", *building])
    publish("policy", table(["decision", "mean", "p99", "build", "stall", "table"], rows), {"gcc": debian("gcc")})


if __name__ == "__main__":
    main()
