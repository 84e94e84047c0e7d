"""Compiles, loads, attaches and pins the steering program: `python3 program.py SOURCES NAMESPACE PINS`.

Runs as a short-lived child process, because a process that has compiled keeps 125 MB of LLVM in memory. Its interpreter
is the one that has Debian's python3-bpfcc, which may not be ours, so this file imports nothing from the package. It
reports an error as the last line on standard error. Exit code 3 means that the interpreter has no BCC.
"""

from __future__ import annotations

import ctypes
import os
import sys

SK_LOOKUP_PROGRAM = 30  # enum bpf_prog_type; loading requires the expected attach type
SK_LOOKUP_ATTACH = 36  # enum bpf_attach_type
MAPS = ("containers", "listeners", "refused4", "refused6", "served6", "counters")
NO_BCC = 3


def main(sources: str, namespace: str, pins: str) -> None:
    """Pins `program`, `link` and the maps in the directory `pins` of a bpffs."""
    os.environ["BCC_KERNEL_SOURCE"] = os.path.join(sources, "bcc_headers")
    try:
        import bcc
    except ImportError:
        print(f"{sys.executable} has no BCC", file=sys.stderr)
        raise SystemExit(NO_BCC) from None
    source = os.path.join(sources, "steer.bpf.c")
    compiled = bcc.BPF(src_file=source, cflags=["-I" + sources, "-Wall", "-Werror"])
    program = compiled.load_func(b"steer", SK_LOOKUP_PROGRAM, attach_type=SK_LOOKUP_ATTACH).fd
    for name in MAPS:
        pin(bcc.lib.bpf_table_fd(compiled.module, name.encode()), pins, name)
    pin(program, pins, "program")
    pin(attach(program, namespace), pins, "link")


def attach(program: int, namespace: str) -> int:
    """Links the program to the namespace, with libbpf because BCC can't do that. Returns the link's descriptor."""
    libbpf = ctypes.CDLL("libbpf.so.1", use_errno=True)
    target = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        link: int = libbpf.bpf_link_create(program, target, SK_LOOKUP_ATTACH, None)
    finally:
        os.close(target)
    if link < 0:
        raise OSError(-link, f"attach to the network namespace: {os.strerror(-link)}")
    return link


def pin(fd: int, directory: str, name: str) -> None:
    libbpf = ctypes.CDLL("libbpf.so.1", use_errno=True)
    error: int = libbpf.bpf_obj_pin(fd, os.path.join(directory, name).encode())
    if error < 0:
        raise OSError(-error, f"pin {name}: {os.strerror(-error)}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Exception as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
