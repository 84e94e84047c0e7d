"""The command line: `pyinterceptor run app.py -- COMMAND…` and `pyinterceptor doctor`.

Errors are printed as sentences on standard error. Our own exit codes are 2 (usage, the app's rules) and 125 (capture,
runtime), as in podman-run(1), so that they can be told apart from the command's.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from pyinterceptor.cli.doctor import doctor
from pyinterceptor.cli.run import USAGE, add_arguments, run
from pyinterceptor.errors import InterceptorError, PolicyError
from pyinterceptor.serving.log import SafeFormatter

OURS = 125  # exit code of a failure of ours


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    end = words.index("--") if "--" in words else len(words)
    options = parser().parse_args(words[:end])
    options.command = words[end + 1 :]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(SafeFormatter("%(message)s" if options.verbose else "pyinterceptor: %(message)s"))
    logging.basicConfig(handlers=[handler])
    logging.getLogger("pyinterceptor").setLevel(logging.INFO if options.verbose else logging.WARNING)
    try:
        return int(options.verb(options))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python's flush at exit would fail again
        return OURS
    except (Exception, BaseExceptionGroup) as error:
        return complain(error, options.verbose)


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the arguments before `--`."""
    top = argparse.ArgumentParser(prog="pyinterceptor", description="Outbound traffic of containers, in Python.")
    top.set_defaults(verbose=False)
    verbs = top.add_subparsers(required=True, metavar="run | doctor")
    verb = verbs.add_parser("run", help="run a command in a fresh container under an app's rules", usage=USAGE)
    verb.set_defaults(verb=run)
    add_arguments(verb)
    verbs.add_parser("doctor", help="show what this machine has and lacks").set_defaults(verb=doctor)
    return top


def complain(error: BaseException, verbose: bool) -> int:
    """Prints the error as one line, after its traceback if `verbose`; returns the exit code."""
    if verbose:
        traceback.print_exception(error)
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]  # the traceback shows all of them
    message = " ".join(str(error).split())
    if not isinstance(error, InterceptorError):
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}, line {place.lineno}"
        remedy = "" if verbose else "; run it with -v for the traceback"
        message = f"internal error: {type(error).__name__}: {message} ({where}){remedy}"
    print(f"pyinterceptor: {message}", file=sys.stderr)
    return 2 if isinstance(error, PolicyError) else OURS
