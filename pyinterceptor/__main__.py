"""The command line: `pyinterceptor run app.py -- COMMAND…` and `pyinterceptor doctor`.

Errors are sentences on standard error; our own exit codes are 2 (usage, the app's rules) and 125 (capture, runtime),
as in podman-run(1), so that they aren't taken for the command's.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

import trio

from pyinterceptor.app import App, load_app
from pyinterceptor.capture.probe import probe
from pyinterceptor.capture.state import free_instance
from pyinterceptor.container import Container
from pyinterceptor.errors import InterceptorError, PolicyError
from pyinterceptor.interceptor import open_interceptor
from pyinterceptor.relay.relay import Options

OURS = 125  # exit code of a failure of ours


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    options = parser().parse_args(arguments)
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO if options.verbose else logging.WARNING,
        format="%(message)s" if options.verbose else "pyinterceptor: %(message)s",
    )
    if options.verb == "doctor":
        return doctor()
    try:
        return run(options)
    except PolicyError as error:
        return complain(error, 2)
    except InterceptorError as error:
        return complain(error, OURS)
    except BaseExceptionGroup as group:
        cause = first(group)
        if isinstance(cause, InterceptorError):
            return complain(cause, OURS)
        raise


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="pyinterceptor", description="Outbound traffic of containers, in Python.")
    top.set_defaults(verbose=False)
    verbs = top.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("run", help="run a command in a fresh container under an app's rules")
    verb.add_argument("app", help="a Python file that defines `app`")
    verb.add_argument("command", nargs="+", metavar="-- COMMAND", help="what to run")
    verb.add_argument("--container", metavar="CLASS", help="the app's class to run it in (default: its first)")
    verb.add_argument("--user", help="the user to run it as (default: who invoked us)")
    verb.add_argument("--nameserver", action="append", help="ask this one instead of /etc/resolv.conf's")
    verb.add_argument("-v", "--verbose", action="store_true", help="a line on standard error for each flow")
    verbs.add_parser("doctor", help="what this machine has and lacks")
    return top


def run(options: argparse.Namespace) -> int:
    """Runs the command; its exit code is ours."""
    app = load_app(options.app)
    cls = chosen(app, options.container)
    if os.geteuid() != 0:
        raise InterceptorError("attach a container: needs root; run it with sudo")
    return trio.run(run_in_container, app, cls, options)


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
        options=Options(reports=options.verbose),
    ) as interceptor:
        box = await interceptor.get_container(cls, "run", user=options.user)
        return await box.run_inherited(options.command)


def doctor() -> int:
    """Prints a line a check; 0 if nothing is missing."""
    checks = probe()
    for check in checks:
        print(f"{'ok     ' if check.ok else 'MISSING'} {check.name}" + ("" if check.ok else f": {check.remedy}"))
    return 0 if all(check.ok for check in checks) else 1


def complain(error: BaseException, code: int) -> int:
    print(f"pyinterceptor: {error}", file=sys.stderr)
    return code


def first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first leaf of a group."""
    leaf: BaseException = group
    while isinstance(leaf, BaseExceptionGroup):
        leaf = leaf.exceptions[0]
    return leaf


if __name__ == "__main__":
    sys.exit(main())
