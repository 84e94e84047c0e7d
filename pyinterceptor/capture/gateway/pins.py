"""Pinned BPF objects, used through bpf(2) alone, so that the daemon loads neither libbpf nor LLVM.

Keys and values are the map's raw bytes. All functions raise OSError with the kernel's errno.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from pathlib import Path

# linux/bpf.h, enum bpf_cmd
MAP_LOOKUP_ELEM = 1
MAP_UPDATE_ELEM = 2
MAP_DELETE_ELEM = 3
PROG_LOAD = 5
OBJ_GET = 7
OBJ_GET_INFO_BY_FD = 15
LINK_GET_FD_BY_ID = 30
LINK_GET_NEXT_ID = 31
SK_LOOKUP_PROGRAM = 30  # enum bpf_prog_type
SK_LOOKUP_ATTACH = 36  # enum bpf_attach_type
LINK_TYPE_NETNS = 5  # enum bpf_link_type
SYSCALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "s390x": 351, "ppc64le": 361}
INFO_SIZE = 256  # bytes; larger than bpf_link_info in any kernel so far

_libc = ctypes.CDLL(None, use_errno=True)


def open_pin(path: Path) -> int:
    """Returns a file descriptor of the object that is pinned at `path`."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    return _bpf(OBJ_GET, struct.pack("=QII", ctypes.addressof(name), 0, 0))


class Map:
    """A pinned map, open until `close`."""

    def __init__(self, path: Path) -> None:
        self._fd = open_pin(path)

    def close(self) -> None:
        os.close(self._fd)

    def update(self, key: bytes, value: bytes) -> None:
        self._element(MAP_UPDATE_ELEM, key, ctypes.create_string_buffer(value, len(value)))

    def delete(self, key: bytes) -> bool:
        """Deletes the key. Returns False if the map doesn't contain it."""
        try:
            self._element(MAP_DELETE_ELEM, key, None)
        except FileNotFoundError:
            return False
        return True

    def lookup(self, key: bytes, size: int) -> bytes | None:
        """Returns the value, which has `size` bytes; None if the map doesn't contain the key.

        `size` must be exact: for a per-CPU map of u64, eight bytes for each possible CPU.
        """
        value = ctypes.create_string_buffer(size)
        try:
            self._element(MAP_LOOKUP_ELEM, key, value)
        except FileNotFoundError:
            return None
        return value.raw

    def _element(self, command: int, key: bytes, value: ctypes.Array[ctypes.c_char] | None) -> None:
        held = ctypes.create_string_buffer(key, len(key))
        at = 0 if value is None else ctypes.addressof(value)
        _bpf(command, struct.pack("=IIQQQ", self._fd, 0, ctypes.addressof(held), at, 0))


def try_program() -> None:
    """Loads a socket lookup program that accepts everything, without attaching it. Raises OSError if loading fails."""
    instructions = ctypes.create_string_buffer(bytes.fromhex("b700000001000000 9500000000000000"))  # r0 = 1; exit
    licence = ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack(
        "=IIQQIIQII16sIII",
        SK_LOOKUP_PROGRAM,
        2,  # instructions
        ctypes.addressof(instructions),
        ctypes.addressof(licence),
        0,  # no log: level, size, buffer
        0,
        0,
        0,  # kernel version
        0,  # flags
        b"probe",
        0,  # interface
        SK_LOOKUP_ATTACH,
        0,
    )
    os.close(_bpf(PROG_LOAD, attributes))


def possible_cpus() -> int:
    """Returns the number of possible CPUs, for each of which a per-CPU map has a value."""
    last = Path("/sys/devices/system/cpu/possible").read_text().strip().replace(",", "-").split("-")[-1]
    return int(last) + 1


def links_of(namespace: int) -> int:
    """Returns the number of BPF links on the network namespace with this inode number (0: on dead namespaces)."""
    found, last = 0, 0
    while True:
        request = ctypes.create_string_buffer(struct.pack("=III", last, 0, 0), 12)
        try:
            _bpf_buffer(LINK_GET_NEXT_ID, request)
        except FileNotFoundError:
            return found
        last = struct.unpack_from("=I", request.raw, 4)[0]
        try:
            fd = _bpf(LINK_GET_FD_BY_ID, struct.pack("=III", last, 0, 0))
        except FileNotFoundError:
            continue
        try:
            kind, inode = _link_info(fd)
        finally:
            os.close(fd)
        found += kind == LINK_TYPE_NETNS and inode == namespace


def _link_info(fd: int) -> tuple[int, int]:
    """Returns the link's type and, if it is on a network namespace, the namespace's inode number."""
    info = ctypes.create_string_buffer(INFO_SIZE)
    _bpf(OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", fd, INFO_SIZE, ctypes.addressof(info)))
    kind, _, _, _, inode = struct.unpack_from("=IIIII", info.raw)
    return kind, inode


def _bpf(command: int, attributes: bytes) -> int:
    return _bpf_buffer(command, ctypes.create_string_buffer(attributes, len(attributes)))


def _bpf_buffer(command: int, attributes: ctypes.Array[ctypes.c_char]) -> int:
    number = SYSCALL.get(platform.machine())
    if number is None:
        raise OSError(38, f"bpf(2): unknown system call number on {platform.machine()}")
    result: int = _libc.syscall(number, command, attributes, len(attributes))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result
