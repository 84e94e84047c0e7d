"""Builds pyinterceptor._relay, the C extension, with cffi.

The headers are the interface: cffi reads the same files as gcc, without the directives that need a preprocessor.
"""
import os
import re
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent
ABI = HERE.parent / "kernel" / "abi.h"
HEADERS = [ABI] + [
    HERE / f"{name}.h"
    for name in (
        *("addresses", "hosts", "protocol", "layout", "policy", "guard"),
        *("reading", "frame", "chunks", "response", "content", "sniff", "names", "message", "datagrams"),
        *("route", "records", "relay", "nameservers", "resolver"),
        *("subject", "judge", "follow", "watch", "timers", "places", "ports", "transitions"),
    )
]
SOURCES = sorted(HERE.glob("*.c"))
INTEGER = re.compile(r"#define\s+\w+\s+(0[xX][0-9a-fA-F]+|\d+)\b")


def declarations(header: Path) -> str:
    """Returns the header's text for cffi's cdef(): #defines of integers are kept, other directives are removed."""
    lines = []
    for line in header.read_text().splitlines():
        if line.lstrip().startswith("#"):
            match = INTEGER.match(line)
            if match:
                lines.append(match.group(0))
        else:
            lines.append(line)
    return "\n".join(lines)


ffi = FFI()
ffi.cdef("typedef union { ...; } pthread_mutex_t;")
for header in HEADERS:
    ffi.cdef(declarations(header))
ffi.set_source(
    "pyinterceptor._relay",
    "#include <stdint.h>\n" + "\n".join(f'#include "{header.name}"' for header in HEADERS),
    sources=[os.path.relpath(source, HERE.parent) for source in SOURCES],
    include_dirs=["cext", "kernel"],
    extra_compile_args=["-O2", "-g", "-std=gnu11", "-pthread", "-fvisibility=hidden"]
    + (["-Wall", "-Wextra", "-Werror"] if os.environ.get("PYINTERCEPTOR_WERROR") else []),
    extra_link_args=["-pthread"],
)
