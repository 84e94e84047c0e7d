"""kernel/abi.h and the headers of cext: each number and struct is defined once, and every reader sees the same."""

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from pyinterceptor._relay import ffi, lib

ROOT = Path(__file__).parents[2]
ABI = ROOT / "kernel" / "abi.h"
HEADERS = [ABI, *sorted((ROOT / "cext").glob("*.h"))]
DEFINED = re.compile(r"^#define (\w+) (?:0x[0-9a-f]+|\d+)\b", re.MULTILINE | re.IGNORECASE)
COMPILERS = [name for name in ("gcc", "clang-14", "clang") if shutil.which(name)]


def numbers(header: Path) -> list[str]:
    return DEFINED.findall(header.read_text())


def modules() -> list[Path]:
    return sorted((ROOT / "pyinterceptor").rglob("*.py"))


@pytest.mark.parametrize("compiler", COMPILERS)
def test_a_compiler_and_python_read_the_same_numbers_and_layout(compiler: str) -> None:
    entry = ffi.typeof("struct container_entry")
    claims = [f"{name} == {getattr(lib, name)}" for name in numbers(ABI)]
    claims.append(f"sizeof(struct container_entry) == {ffi.sizeof(entry)}")
    claims += [f"offsetof(struct container_entry, {name}) == {field.offset}" for name, field in entry.fields]
    assert len(claims) > 15
    includes = f'#include <stddef.h>\n#include <stdint.h>\n#include "{ABI}"\n'

    def compiled(claims: list[str]) -> int:
        text = includes + "\n".join(f'_Static_assert({claim}, "{claim}");' for claim in claims)
        command = [compiler, "-fsyntax-only", "-xc", "-"]
        return subprocess.run(command, input=text.encode(), capture_output=True).returncode

    assert compiled(claims) == 0
    assert compiled(["DNS_PORT == 54"]) != 0


def test_a_container_entry_has_its_members_in_the_host_byte_order() -> None:
    entry = ffi.new("struct container_entry *", {"flags": lib.CONTAINER_IPV6, "container": 0x01020304})
    assert bytes(ffi.buffer(entry)) == b"\x01\x00\x00\x00\x04\x03\x02\x01"


def test_the_counters_are_numbered_without_a_gap() -> None:
    counters = [getattr(lib, name) for name in dir(lib) if name.startswith("COUNTER_")]
    assert sorted(counters) == list(range(lib.COUNTERS))


def test_no_number_of_a_header_is_defined_twice_in_c() -> None:
    known = {name for header in HEADERS for name in numbers(header)}
    found = [name for path in sorted((ROOT / "cext").glob("*.[ch]")) for name in DEFINED.findall(path.read_text())]
    twice = {name for name in found if name in set(numbers(ABI)) or (name in known and found.count(name) > 1)}
    assert not twice


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_number_of_a_header_is_written_again_in_python(path: Path) -> None:
    known = {name for header in HEADERS for name in numbers(header)}
    tree = ast.parse(path.read_text())
    again = {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name) and target.id in known
    }
    assert not again


@pytest.mark.parametrize("layer", ["capture", "dns", "http", "relay", "serving"])
def test_the_port_of_dns_is_that_of_the_header(layer: str) -> None:
    trees = {path: ast.parse(path.read_text()) for path in (ROOT / "pyinterceptor" / layer).rglob("*.py")}
    assert trees
    assert not [
        (path, node.lineno)
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value == 53
    ]
