"""Package indexes as static files for nginx: an npm registry, an index for pip, and a Debian repository.

Each has the package `greeter`, which depends on PARTS packages with bodies that don't compress, so that a client
downloads over several connections, or pipelines on one.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import random
import subprocess
import tarfile
import tempfile
import zipfile
from pathlib import Path

PARTS = 12  # packages that `greeter` depends on
STEP = 24 * 1024  # bytes by which each part's body is larger than the one before; the first is empty


def parts() -> dict[str, bytes]:
    """Returns the names of the parts, each with its body."""
    return {f"greeter-part-{number}": random.Random(number).randbytes(number * STEP) for number in range(PARTS)}


def write_indexes(www: Path, host: str) -> None:
    """Writes `www`/npm, `www`/simple and `www`/debian. `host` serves them; npm's documents contain whole URLs."""
    npm_registry(www / "npm", f"http://{host}/npm")
    pip_index(www / "simple")
    debian_repository(www / "debian")


def npm_registry(place: Path, url: str) -> None:
    """Source: https://github.com/npm/registry/blob/main/docs/responses/package-metadata.md"""
    (place / "files").mkdir(parents=True)
    for name, body in parts().items():
        _npm_package(place, url, name, {"index.js": b"", "body.bin": body}, {})
    index = "".join(f"require.resolve('{name}/body.bin');\n" for name in parts()).encode()
    program = {"index.js": index + b"module.exports = 'hello from npm';\n"}
    _npm_package(place, url, "greeter", program, dict.fromkeys(parts(), "^1.0.0"))


def _npm_package(place: Path, url: str, name: str, files: dict[str, bytes], dependencies: dict[str, str]) -> None:
    described = {"name": name, "version": "1.0.0", "main": "index.js", "dependencies": dependencies}
    contents = files | {"package.json": json.dumps(described).encode()}
    archive = _tar({f"package/{path}": body for path, body in contents.items()})
    (place / "files" / f"{name}-1.0.0.tgz").write_bytes(archive)
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(archive).digest()).decode()
    dist = {"tarball": f"{url}/files/{name}-1.0.0.tgz", "integrity": integrity}
    document = {"name": name, "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": described | {"dist": dist}}}
    (place / name).write_text(json.dumps(document))


def pip_index(place: Path) -> None:
    """Source: https://packaging.python.org/en/latest/specifications/simple-repository-api/"""
    for name, body in parts().items():
        module = name.replace("-", "_")
        _wheel(place, name, {f"{module}/__init__.py": b"", f"{module}/body.bin": body}, [])
    _wheel(place, "greeter", {"greeter/__init__.py": b"GREETING = 'hello from pip'\n"}, list(parts()))


def _wheel(place: Path, name: str, files: dict[str, bytes], dependencies: list[str]) -> None:
    module = name.replace("-", "_")
    info, written = f"{module}-1.0.0.dist-info", io.BytesIO()
    required = "".join(f"Requires-Dist: {one}\n" for one in dependencies)
    files = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0.0\n{required}".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"]).encode()
    with zipfile.ZipFile(written, "w") as archive:
        for path, body in (files | {f"{info}/RECORD": record}).items():
            archive.writestr(path, body)
    wheel, sha256 = f"{module}-1.0.0-py3-none-any.whl", hashlib.sha256(written.getvalue()).hexdigest()
    (place / name).mkdir(parents=True)
    (place / name / wheel).write_bytes(written.getvalue())
    (place / name / "index.html").write_text(
        f'<!doctype html><title>{name}</title><a href="{wheel}#sha256={sha256}">{wheel}</a>\n'
    )


def debian_repository(place: Path) -> None:
    """A flat repository, without signatures. Source: https://wiki.debian.org/DebianRepository/Format"""
    place.mkdir(parents=True)
    described = [_deb(place, name, {"body.bin": body}, []) for name, body in parts().items()]
    described.append(_deb(place, "greeter", {"greeting": b"hello from apt\n"}, list(parts())))
    packages = "\n".join(described)
    (place / "Packages").write_text(packages)
    sha256 = hashlib.sha256(packages.encode()).hexdigest()
    (place / "Release").write_text(f"Suite: world\nSHA256:\n {sha256} {len(packages)} Packages\n")


def _deb(place: Path, name: str, files: dict[str, bytes], dependencies: list[str]) -> str:
    """Builds a package, whose files are in /opt/NAME. Returns its paragraph of Packages."""
    fields = {"Package": name, "Version": "1.0", "Architecture": "all", "Maintainer": "World <world@origin.test>"}
    if dependencies:
        fields["Depends"] = ", ".join(dependencies)
    control = "".join(f"{field}: {value}\n" for field, value in fields.items()) + f"Description: {name}\n"
    built = place / f"{name}_1.0_all.deb"
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) / "root"
        (root / "DEBIAN").mkdir(parents=True)
        (root / "DEBIAN" / "control").write_text(control)
        (root / "opt" / name).mkdir(parents=True)
        for path, body in files.items():
            (root / "opt" / name / path).write_bytes(body)
        build = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(root), str(built)]
        subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    body = built.read_bytes()
    return f"{control}Filename: ./{built.name}\nSize: {len(body)}\nSHA256: {hashlib.sha256(body).hexdigest()}\n"


def _tar(files: dict[str, bytes]) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w:gz") as archive:
        for path, body in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(body), 0o644
            archive.addfile(entry, io.BytesIO(body))
    return written.getvalue()
