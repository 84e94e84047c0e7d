"""An instance that is killed, so that another can take its place: `predecessor.py INSTANCE NETNS [INTERPRETER]`.

Opens the gateway of that name, attaches the network namespace of the descriptor NETNS, prints "attached" and waits to
be killed. INTERPRETER compiles the kernel program instead of the usual interpreter.

`predecessor.py INSTANCE NETNS each` instead reads lines "FUNCTION NUMBER", and starts a predecessor for each. That one
kills itself before it executes statement NUMBER of the function with this qualified name, counted in order of
execution, or else once it is attached. Prints "dead" after each one's end.
"""

from __future__ import annotations

import ast
import itertools
import os
import signal
import sys
import threading
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import trio

from pyinterceptor.capture.gateway import debian, gateway


async def main(instance: str, netns: int, then: Any) -> None:
    async with gateway.open_gateway(instance, v6=True) as opened:
        await opened.attach(opened.reserve(1), netns)
        print("attached", flush=True)
        await then()


def die_at(function: str, number: int) -> None:
    statements = itertools.count()

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        code = frame.f_code
        if code.co_qualname != function or "pyinterceptor/capture" not in code.co_filename:
            return None
        if event == "line" and frame.f_lineno in begins(code.co_filename) and next(statements) == number:
            die()
        return trace

    threading.settrace(trace)
    sys.settrace(trace)


@cache
def begins(file: str) -> set[int]:
    """Returns the numbers of the lines that begin a statement."""
    return {node.lineno for node in ast.walk(ast.parse(Path(file).read_text())) if isinstance(node, ast.stmt)}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def die_attached() -> None:
    die()


instance, netns = sys.argv[1], int(sys.argv[2])
match sys.argv[3:]:
    case ["each"]:
        for line in sys.stdin:
            if (child := os.fork()) == 0:
                function, number = line.split()
                die_at(function, int(number))
                trio.run(main, instance, netns, die_attached)
            os.waitpid(child, 0)
            print("dead", flush=True)
    case [interpreter]:
        debian.INTERPRETERS = (interpreter,)
        trio.run(main, instance, netns, trio.sleep_forever)
    case []:
        trio.run(main, instance, netns, trio.sleep_forever)
