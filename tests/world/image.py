"""Podman images of busybox and programs of the host, built without a registry."""

from __future__ import annotations

import ast
import io
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

PODMAN = ["podman", "--runtime", "runc"]
PYTHON = "/usr/bin/python3"
LISTING = """
import encodings.idna, http.client, sys
print([getattr(module, "__file__", None) for module in sys.modules.values()])
"""
DIRECTORIES = ("bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "var")


def busybox_image(name: str) -> None:
    """Imports the image of busybox under this name. Raises AssertionError with podman's error message."""
    _import(name, root_archive())


def curl_image(name: str) -> None:
    """Imports an image with busybox and the host's curl, including curl's libraries."""
    _import(name, _archive({"/bin/curl": _curl()}))


def client_image(name: str) -> None:
    """Imports an image with busybox, the host's curl, and Debian's Python with the modules that http.client needs."""
    listed = subprocess.run([PYTHON, "-I", "-c", LISTING], capture_output=True, text=True, check=True).stdout
    modules = {path: path for path in ast.literal_eval(listed) if path is not None}
    _import(name, _archive({"/bin/curl": _curl(), PYTHON: PYTHON, **modules}))


def _curl() -> str:
    curl = shutil.which("curl")
    assert curl is not None, "curl is missing: apt install curl"
    return curl


def _archive(files: Mapping[str, str]) -> bytes:
    """Returns a root file system as a tar archive. `files` are files of the host by their paths inside."""
    found = dict(files)
    for source in files.values():
        if not source.endswith(".py"):
            linked = subprocess.run(["ldd", source], capture_output=True, text=True, check=True).stdout
            found.update((path, path) for path in re.findall(r"(/\S+) \(0x", linked))
    written = io.BytesIO(root_archive())
    with tarfile.open(fileobj=written, mode="a") as archive:
        for path, source in found.items():
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.size, entry.mode = os.stat(source).st_size, 0o755
            with open(source, "rb") as file:
                archive.addfile(entry, file)
    return written.getvalue()


def _import(name: str, archive: bytes) -> None:
    importing = [*PODMAN, "import", "--change", 'CMD ["/bin/cat"]', "-", name]
    done = subprocess.run(importing, input=archive, capture_output=True)
    assert done.returncode == 0, f"podman import: {done.stderr.decode()}"


def remove_image(name: str) -> None:
    done = subprocess.run([*PODMAN, "rmi", "--force", name], capture_output=True)
    assert done.returncode == 0, f"podman rmi: {done.stderr.decode()}"


def root_archive() -> bytes:
    """Returns a root file system as a tar archive: /bin/busybox, and a link for each of its programs."""
    busybox = shutil.which("busybox")
    assert busybox is not None, "busybox is missing: apt install busybox-static"
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for directory in DIRECTORIES:
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if directory == "tmp" else 0o755
            archive.addfile(entry)
        program = Path(busybox).read_bytes()
        entry = tarfile.TarInfo("bin/busybox")
        entry.size, entry.mode = len(program), 0o755
        archive.addfile(entry, io.BytesIO(program))
        for applet in applets:
            if applet != "busybox":
                entry = tarfile.TarInfo(f"bin/{applet}")
                entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
                archive.addfile(entry)
    return written.getvalue()
