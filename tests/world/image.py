"""A podman image that contains only busybox, built without a registry."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

PODMAN = ["podman", "--runtime", "runc"]
DIRECTORIES = ("bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "var")


def busybox_image(name: str) -> None:
    """Imports the image of busybox under this name. Raises AssertionError with podman's error message."""
    _import(name, root_archive())


def curl_image(name: str) -> None:
    """Imports an image with busybox and the host's curl, including curl's libraries."""
    curl = shutil.which("curl")
    assert curl is not None, "curl is missing: apt install curl"
    linked = subprocess.run(["ldd", curl], capture_output=True, text=True, check=True).stdout
    written = io.BytesIO(root_archive())
    with tarfile.open(fileobj=written, mode="a") as archive:
        for path in ["/bin/curl", *re.findall(r"(/\S+) \(0x", linked)]:
            source = curl if path == "/bin/curl" else path
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.size, entry.mode = os.stat(source).st_size, 0o755
            with open(source, "rb") as file:
                archive.addfile(entry, file)
    _import(name, written.getvalue())


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
