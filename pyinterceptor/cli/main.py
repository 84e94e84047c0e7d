"""The command line: `pyinterceptor run app.py COMMAND…`, `doctor` and `completion`.

Errors are printed as sentences on standard error. Our own exit codes are 2 (usage, the app's rules) and 125 (capture,
runtime), as in podman-run(1), so that they can be told apart from the command's.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import shtab

from pyinterceptor.cli.doctor import doctor
from pyinterceptor.cli.run import USAGE, add_arguments, run
from pyinterceptor.errors import InterceptorError, PolicyError
from pyinterceptor.version import VERSION

OURS = 125  # exit code of a failure of ours
GREETING = """\
pyinterceptor: outbound traffic of containers, in Python.

  pyinterceptor run APP.py COMMAND…         run a command in a fresh container under the rules of an app
  pyinterceptor doctor                      show what this machine has and lacks
  pyinterceptor completion bash|zsh         print the completion of the arguments for a shell
  pyinterceptor run --help                  list the options of run

An app, hello.py:

  from pyinterceptor import App, Container, Response

  class Sandbox(Container):
      enable_internet = False

  @Sandbox.outbound_by_host("my.kv")
  async def hello(request, env, ctx):
      return Response("hello")

  app = App(containers=[Sandbox])

As root, `pyinterceptor run hello.py curl -s http://my.kv/` prints hello. help(pyinterceptor) in Python says more."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    options = parsed(list(sys.argv[1:] if arguments is None else arguments))
    try:
        return int(options.verb(options))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python's flush at exit would fail again
        return OURS
    except (Exception, BaseExceptionGroup) as error:
        return complain(error, options.verbose)


def parsed(words: list[str]) -> argparse.Namespace:
    """Parses the arguments. The command begins after `--`, or with the first word after the app that is no option."""
    options = parser().parse_args(words)
    if getattr(options, "command", [])[:1] == ["--"]:  # argparse drops it from Python 3.13 on
        del options.command[0]
    return options


def parser() -> argparse.ArgumentParser:
    """Returns the parser of all arguments."""
    top = argparse.ArgumentParser(prog="pyinterceptor", description="Outbound traffic of containers, in Python.")
    top.add_argument("--version", action="version", version=f"pyinterceptor {VERSION}")
    top.set_defaults(verbose=False, verb=greet)
    verbs = top.add_subparsers(metavar="run | doctor | completion")
    verb = verbs.add_parser("run", help="run a command in a fresh container under an app's rules", usage=USAGE)
    verb.set_defaults(verb=run)
    add_arguments(verb)
    verbs.add_parser("doctor", help="show what this machine has and lacks").set_defaults(verb=doctor)
    verb = verbs.add_parser("completion", help="print the completion of the arguments for a shell")
    verb.add_argument("shell", choices=["bash", "zsh"])
    verb.set_defaults(verb=completion)
    return top


def greet(options: argparse.Namespace) -> int:
    """Answers a call without arguments."""
    print(GREETING)
    return 0


def completion(options: argparse.Namespace) -> int:
    """Prints the shell's completion script."""
    print(shtab.complete(parser(), shell=options.shell))
    return 0


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
