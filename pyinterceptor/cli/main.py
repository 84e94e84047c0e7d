"""The command line: `pyinterceptor run app.py -- COMMAND…` and `pyinterceptor doctor`.

Errors are sentences on standard error; our own exit codes are 2 (usage, the app's rules) and 125 (capture, runtime),
as in podman-run(1), so that they aren't taken for the command's.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import trio

from pyinterceptor.app.app import App
from pyinterceptor.app.container import Container
from pyinterceptor.app.load import load_app
from pyinterceptor.bindings.state import state_of_file
from pyinterceptor.capture.gateway.state import free_instance
from pyinterceptor.capture.probe import probe
from pyinterceptor.errors import InterceptorError, PolicyError
from pyinterceptor.relay.relay import Options
from pyinterceptor.runtime.terminal import until_signalled
from pyinterceptor.serving.interceptor import open_interceptor

OURS = 125  # exit code of a failure of ours


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    end = words.index("--") if "--" in words else len(words)
    options = parser().parse_args(words[:end])
    options.command = words[end + 1 :]
    logging.basicConfig(
        stream=sys.stderr, format="%(message)s" if options.verbose else "pyinterceptor: %(message)s"
    )
    logging.getLogger("pyinterceptor").setLevel(logging.INFO if options.verbose else logging.WARNING)
    try:
        return int(options.verb(options))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads us any more: nothing more to say
        return OURS
    except (Exception, BaseExceptionGroup) as error:
        return complain(error, options.verbose)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="pyinterceptor", description="Outbound traffic of containers, in Python.")
    top.set_defaults(verbose=False)
    verbs = top.add_subparsers(required=True, metavar="run | doctor")
    verb = verbs.add_parser(
        "run",
        help="run a command in a fresh container under an app's rules",
        usage="%(prog)s [-v] [--container CLASS] [--user USER] [--env NAME[=VALUE]] [--binding NAME=VALUE]"
        " [--state NAME] [--nameserver ADDRESS] APP -- COMMAND…",
    )
    verb.set_defaults(verb=run)
    verb.add_argument("app", metavar="APP", help="a Python file that defines `app`")
    verb.add_argument("--container", metavar="CLASS", help="the app's class to run it in (default: its first)")
    verb.add_argument("--user", help="the user to run it as (default: who invoked us)")
    verb.add_argument(
        "--env",
        metavar="NAME[=VALUE]",
        action="append",
        default=[],
        help="a variable for the command, with our value if none is given; few of ours pass unasked",
    )
    verb.add_argument(
        "--binding",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="another engine for a binding of the app, as KV=redis://127.0.0.1:6379, or another value for a text;"
        " PYINTERCEPTOR_BINDING_NAME in our environment does the same",
    )
    verb.add_argument(
        "--state", metavar="NAME", help="whose embedded KV and R2 to use (default: those of this file)"
    )
    verb.add_argument(
        "--nameserver", metavar="ADDRESS", action="append", help="ask this one instead of /etc/resolv.conf's"
    )
    verb.add_argument("-v", "--verbose", action="store_true", help="a line on standard error for each flow")
    verbs.add_parser("doctor", help="what this machine has and lacks").set_defaults(verb=doctor)
    return top


def run(options: argparse.Namespace) -> int:
    """Runs the command; its exit code is ours."""
    if not options.command:
        print("pyinterceptor: run: give the command after --, as in: run app.py -- curl http://my.kv/", file=sys.stderr)
        return 2
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing is open yet: Ctrl-C ends us without a word
    app = load_app(options.app)
    cls = chosen(app, options.container)
    options.env = dict(map(variable, options.env))
    options.settings = dict(map(setting, options.binding))
    if os.geteuid() != 0:
        raise InterceptorError("attach a container: needs root; run it with sudo")
    return trio.run(until_signalled, partial(run_in_container, app, cls, options))


def chosen(app: App, name: str | None) -> type[Container]:
    """The class called `name`, or the first."""
    known = {cls.__name__: cls for cls in app.containers}
    if name is None:
        return app.containers[0]
    if name not in known:
        raise PolicyError(f"the app has no container class {name!r}; it has: {', '.join(known)}")
    return known[name]


async def run_in_container(app: App, cls: type[Container], options: argparse.Namespace) -> int:
    async with open_interceptor(
        app,
        instance=free_instance("run"),
        nameservers=options.nameserver,
        settings=options.settings,
        state=options.state or state_of_file(options.app),
        options=Options(reports=options.verbose),
    ) as interceptor:
        box = await interceptor.get_container(cls, "run", user=options.user)
        code = await box.run_inherited(options.command, env=options.env)
        await box.stop()
        return code


def variable(text: str) -> tuple[str, str]:
    """What --env says. Raises: PolicyError for a name that we have no value for."""
    name, given, value = text.partition("=")
    if not name:
        raise PolicyError(f"--env {text}: give it a name")
    if not given and name not in os.environ:
        raise PolicyError(f"--env {text}: {name} is not set here; give it a value")
    return name, value if given else os.environ[name]


def setting(text: str) -> tuple[str, str]:
    """What --binding says. Raises: PolicyError for what is no name and value."""
    name, given, value = text.partition("=")
    if not (name and given):
        raise PolicyError(f"--binding {text}: write NAME=VALUE")
    return name, value


def doctor(options: argparse.Namespace) -> int:
    """Prints a line a check; 0 if nothing that is needed is missing."""
    checks = probe()
    for check in checks:
        print(check)
    return 0 if all(check.ok or check.optional for check in checks) else 1


def complain(error: BaseException, verbose: bool) -> int:
    """Says what went wrong in one line, and where with `verbose`; returns the exit code."""
    if verbose:
        traceback.print_exception(error)
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]  # the first is told, all of them with `verbose`
    said = " ".join(str(error).split())
    if not isinstance(error, InterceptorError):
        place = traceback.extract_tb(error.__traceback__)[-1]
        said = f"internal error: {type(error).__name__}: {said} ({Path(place.filename).name}, line {place.lineno})"
        said += "" if verbose else "; run it with -v for the traceback"
    print(f"pyinterceptor: {said}", file=sys.stderr)
    return 2 if isinstance(error, PolicyError) else OURS


