"""Prints the benchmarks' tables, and stores them in RESULTS.md, with a section for each benchmark."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

PLACE = Path(__file__).with_name("RESULTS.md")
TITLE = "# Results\n\nEach table is one run on one machine. Compare the rows of a table, not tables.\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table with aligned columns."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    first = "| " + " | ".join(cell.ljust(width) for cell, width in zip(head, widths, strict=True)) + " |"
    return "\n".join([first, "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines])


def publish(section: str, text: str, versions: Mapping[str, str]) -> None:
    """Prints the text, and replaces the section's earlier results with it."""
    made = f"## {section}\n\n{machine()}; {', '.join(f'{name} {what}' for name, what in versions.items())}\n\n{text}\n"
    print(made, flush=True)
    kept = PLACE.read_text() if PLACE.exists() else TITLE
    pattern = rf"^## {re.escape(section)}\n.*?(?=^## |\Z)"
    if re.search(pattern, kept, re.MULTILINE | re.DOTALL):
        kept = re.sub(pattern, lambda _: made + "\n", kept, flags=re.MULTILINE | re.DOTALL).rstrip() + "\n"
    else:
        kept = f"{kept}\n{made}"
    PLACE.write_text(kept)


def machine() -> str:
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    name = model[1] if model else platform.machine()
    return f"{os.cpu_count()} cores of {name}, Linux {platform.release()}, Python {platform.python_version()}"


def debian(package: str) -> str:
    """Returns the version of an installed Debian package."""
    shown = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Version}", package], capture_output=True, text=True, check=True
    )
    return shown.stdout


def python(package: str) -> str:
    return version(package)
