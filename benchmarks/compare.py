"""Checks whether one tree is slower than another: `./dev bench compare BEFORE [AFTER]`, commits or checkouts.

Measures the processor time that the server spends on an operation, for both trees, and for BEFORE a second time. The
difference between the two measurements of BEFORE is the spread. The three servers run side by side on the same core and
are measured in turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.bench import CLIENT_CORE, on_one_core
from benchmarks.measured import OPERATIONS
from benchmarks.results import machine, table
from tests.world import World

ROOT = Path(__file__).parents[1]
BUILT = ROOT / "build" / "compare"
ALLOWED = 1.05  # of BEFORE's time; AFTER is slower above this, unless the two measurements of BEFORE differ as much


@dataclass
class Server:
    """The server of a tree. `costs` holds the nanoseconds per operation of each round."""

    tree: Path
    process: subprocess.Popen[str]
    costs: dict[str, list[float]] = field(default_factory=lambda: {operation: [] for operation in OPERATIONS})

    def measure(self, operation: str, seconds: int) -> float:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(operation, seconds, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline().split()
        if not answer:
            sys.exit(f"compare: the server of {self.tree} ended")
        return int(answer[0]) / int(answer[1])


def checkout(name: str) -> Path:
    """Returns the directory `name`, or the tree of the commit `name` below build/, with its extension compiled."""
    if Path(name).is_dir():
        return Path(name).resolve()
    commit = git("rev-parse", "--verify", f"{name}^{{commit}}").decode().strip()
    place = BUILT / commit
    if not any(place.glob("pyinterceptor/_relay.*.so")):
        place.mkdir(parents=True, exist_ok=True)
        subprocess.run(["tar", "-x", "-C", place], input=git("archive", commit), check=True)
        subprocess.run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=place, check=True)
    return place


def git(*words: str) -> bytes:
    return subprocess.run(["git", "-C", str(ROOT), *words], stdout=subprocess.PIPE, check=True).stdout


@contextmanager
def serve(tree: Path, instance: str) -> Iterator[Server]:
    argv = on_one_core([sys.executable, "-P", str(ROOT / "benchmarks" / "measured.py"), str(tree), instance])
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        yield Server(tree, process)


def measure(servers: Sequence[Server], rounds: int, seconds: int) -> None:
    """Measures all operations in each round, after a round for warming up. A different server begins each round."""
    for turn in range(-1, rounds):
        order = [servers[(turn + place) % len(servers)] for place in range(len(servers))]
        for operation in OPERATIONS:
            for server in order:
                cost = server.measure(operation, seconds)
                if turn >= 0:
                    server.costs[operation].append(cost)


def compared(operation: str, before: Server, again: Server, after: Server) -> list[str]:
    """Returns the table's row for an operation."""
    was, itself, now = (server.costs[operation] for server in (before, again, after))
    spread = [one / other for one, other in zip(itself, was, strict=True)]
    ratio = statistics.median(one / ((a + b) / 2) for one, a, b in zip(now, was, itself, strict=True))
    is_slower = ratio > ALLOWED and ratio > max(*spread, *(1 / one for one in spread))
    return [
        operation,
        microseconds(was + itself),
        microseconds(now),
        f"{ratio:.3f}",
        f"{statistics.median(spread):.3f} ({min(spread):.3f}-{max(spread):.3f})",
        "SLOWER" if is_slower else "no",
    ]


def microseconds(costs: Sequence[float]) -> str:
    return f"{statistics.median(costs) / 1000:.2f} ({min(costs) / 1000:.2f}-{max(costs) / 1000:.2f})"


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev bench compare", description=__doc__)
    parser.add_argument("before", metavar="BEFORE")
    parser.add_argument("after", metavar="AFTER", nargs="?", default=str(ROOT), help="default: this checkout")
    parser.add_argument("--rounds", type=int, default=12, help="default: 12")
    parser.add_argument("--seconds", type=int, default=1, help="per measurement; default: 1")
    options = parser.parse_args()
    before, after = checkout(options.before), checkout(options.after)
    os.sched_setaffinity(0, {int(CLIENT_CORE)})  # inherited by the world's servers
    with World(), ExitStack() as stack:
        trees = {"before": before, "again": before, "after": after}
        servers = [stack.enter_context(serve(tree, f"bench-{name}")) for name, tree in trees.items()]
        measure(servers, options.rounds, options.seconds)
    rows = [compared(operation, *servers) for operation in OPERATIONS]
    head = ["an operation", "before, µs CPU", "after, µs CPU", "after/before", "before/before", "slower?"]
    print(f"{machine()}; {options.rounds} rounds of {options.seconds} s; median (least-most)\n")
    print(table(head, rows))
    return int(any(row[-1] == "SLOWER" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
