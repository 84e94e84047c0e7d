"""`pyinterceptor run APP COMMAND…`: runs a command in a new container under an app's rules."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from functools import partial

import shtab
import trio

from pyinterceptor.app.app import App
from pyinterceptor.app.container import Container, limits_of
from pyinterceptor.app.load import load_app
from pyinterceptor.bindings.state import state_directory, state_of_file
from pyinterceptor.capture.gateway.state import free_instance
from pyinterceptor.cli.files import add_files, files_of, read_only_line, refuse_files
from pyinterceptor.cli.refusals import Tally
from pyinterceptor.cli.watch import watching
from pyinterceptor.errors import InterceptorError, PolicyError
from pyinterceptor.opening import open_interceptor
from pyinterceptor.runtime.terminal import until_signalled
from pyinterceptor.serving.channel import Subscription
from pyinterceptor.serving.interceptor import Interceptor
from pyinterceptor.serving.log import SafeFormatter
from pyinterceptor.serving.records import RefusalRecord

USAGE = (
    "%(prog)s [-v] [--container CLASS] [--user USER] [--env NAME[=VALUE]] [--binding NAME=VALUE]"
    " [--state NAME] [--nameserver ADDRESS] [--workdir DIR] [--writable PATH] [--show PATH] [--home fresh|keep]"
    " [--memory SIZE] [--pids N] [--cpu N] [--tmp SIZE] [--watch] [--fresh] APP [--] COMMAND…"
)


def size(text: str) -> int:
    """Reads a count of bytes, as 65536, 512K, 64M or 2G. Raises ValueError."""
    power = "KMG".find(text[-1:].upper()) + 1 if text[-1:] else 0
    return int(text[:-1] if power else text) << 10 * power


# Options, their placeholders in the help, their readers, and the things that they limit.
LIMITS = (
    ("memory", "SIZE", size, "memory (bytes, or as 512M or 2G)"),
    ("pids", "N", int, "processes and threads"),
    ("cpu", "N", float, "processors, as 0.5"),
    ("tmp", "SIZE", size, "the size of /tmp"),
)


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """Declares the arguments of `run`."""
    app = verb.add_argument("app", metavar="APP", help="a Python file that defines `app`")
    app.complete = shtab.FILE  # type: ignore[attr-defined]
    verb.add_argument("command", metavar="COMMAND", nargs=argparse.PARSER, help="the command and its arguments")
    verb.add_argument("--container", metavar="CLASS", help="the container class of the app (default: its first)")
    verb.add_argument("--user", help="the user that the command runs as (default: the user that invoked pyinterceptor)")
    verb.add_argument(
        "--env",
        metavar="NAME[=VALUE]",
        action="append",
        default=[],
        help="a variable for the command; without a value, its value in this environment (few others are passed on)",
    )
    verb.add_argument(
        "--binding",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="another engine for a binding of the app, as KV=redis://127.0.0.1:6379, or another value for a text;"
        " the variable PYINTERCEPTOR_BINDING_NAME does the same",
    )
    verb.add_argument("--state", metavar="NAME", help="the embedded KV and R2 to use (default: the file's own)")
    verb.add_argument(
        "--nameserver",
        metavar="ADDRESS",
        action="append",
        help="the DNS server to ask instead of those in /etc/resolv.conf",
    )
    add_files(verb)
    for name, metavar, kind, limited in LIMITS:
        verb.add_argument(f"--{name}", metavar=metavar, type=kind, help=f"a limit on {limited}, instead of the class's")
    verb.add_argument("--watch", action="store_true", help="put the rules in force again when the app's file changes")
    verb.add_argument(
        "--fresh", action="store_true", help="ignore the rules that calls have set on the container in earlier runs"
    )
    verb.add_argument(
        "-v", "--verbose", action="store_true", help="print a line on standard error for each request, flow and refusal"
    )


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    log_to_stderr(options.verbose)
    sys.dont_write_bytecode = True  # or modules beside the app would leave __pycache__ there
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing is open yet: Ctrl-C ends the process without a traceback
    app = load_app(options.app)
    cls = chosen(app, options.container)
    for name, *_ in LIMITS:
        if (value := getattr(options, name)) is not None:
            setattr(cls, name, value)
    limits_of(cls)
    options.env = dict(map(variable, options.env))
    options.settings = dict(map(setting, options.binding))
    if os.geteuid() != 0:
        raise InterceptorError("attach a container: needs root; run it with sudo")
    options.state = options.state or state_of_file(options.app)
    if options.verbose:
        print(f"pyinterceptor: {state_line(options.state)}", file=sys.stderr)
    options.files = None
    if cls.image is not None:
        refuse_files(options)
    else:
        options.files = files_of(options, options.state)
        if (line := read_only_line(options.files)) is not None:
            print(f"pyinterceptor: {line}", file=sys.stderr)
    return trio.run(until_signalled, partial(run_in_container, app, cls, options))


def state_line(state: str) -> str:
    """Returns a sentence with the directory of the embedded KV and R2. Raises PolicyError if the name isn't valid."""
    place = state_directory(state)
    if place.exists():
        return f"state is in {place}, with the data of earlier runs"
    return f"state is in {place}, which is new and empty; --state NAME chooses another"


def log_to_stderr(verbose: bool) -> None:
    """Prints the log: records if `verbose`, warnings and errors always."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(SafeFormatter("%(message)s" if verbose else "pyinterceptor: %(message)s"))
    logging.basicConfig(handlers=[handler])
    logging.getLogger("pyinterceptor").setLevel(logging.INFO if verbose else logging.WARNING)


def chosen(app: App, name: str | None) -> type[Container]:
    """Returns the class called `name`, or the app's first. Raises PolicyError if the app has no such class."""
    known = {cls.__name__: cls for cls in app.containers}
    if name is None:
        return app.containers[0]
    if name not in known:
        raise PolicyError(f"the app has no container class {name!r}; it has: {', '.join(known)}")
    return known[name]


async def run_in_container(app: App, cls: type[Container], options: argparse.Namespace) -> int:
    """Starts a container of the class, runs the command in it and stops it. Returns the command's exit code."""
    tally = Tally()
    async with (
        open_interceptor(
            app,
            instance=free_instance("run"),
            nameservers=options.nameserver,
            settings=options.settings,
            state=options.state,
            fresh=options.fresh,
        ) as interceptor,
        interceptor.log_records() if options.verbose else nullcontext(),
        counting(interceptor, tally),
        watching(interceptor, cls, options.app) if options.watch else nullcontext(),
    ):
        container = await interceptor.get_container(
            cls, "run", user=options.user, files=options.files, replaced=True
        )
        code = await container.run_inherited(options.command, env=options.env)
        await container.stop()
    if (line := tally.line()) is not None:
        print(line if options.verbose else f"pyinterceptor: {line}; -v lists them", file=sys.stderr)
    return code


@asynccontextmanager
async def counting(interceptor: Interceptor, tally: Tally) -> AsyncIterator[None]:
    """Counts the refusals that occur during the block."""
    async with trio.open_nursery() as nursery, interceptor.records(RefusalRecord) as refusals:
        nursery.start_soon(count_all, refusals, tally)
        yield


async def count_all(refusals: Subscription[RefusalRecord], tally: Tally) -> None:
    """Counts refusals until the subscription ends."""
    async for refusal in refusals:
        tally.add(refusal)
    tally.dropped = refusals.dropped_refusals


def variable(text: str) -> tuple[str, str]:
    """Returns name and value of an `--env`. Raises PolicyError if it has no value and the environment has none."""
    name, given, value = text.partition("=")
    if not name:
        raise PolicyError(f"--env {text}: give it a name")
    if not given and name not in os.environ:
        raise PolicyError(f"--env {text}: {name} is not set here; give it a value")
    return name, value if given else os.environ[name]


def setting(text: str) -> tuple[str, str]:
    """Returns name and value of a `--binding`. Raises PolicyError if one of them is missing."""
    name, given, value = text.partition("=")
    if not (name and given):
        raise PolicyError(f"--binding {text}: write NAME=VALUE")
    return name, value
