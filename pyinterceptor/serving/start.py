"""The way a container was started, and the contradictions between that and a later call for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pyinterceptor.arguments import Allowed, instances, is_path, is_text, optional
from pyinterceptor.runtime.files import WORKDIR, Files
from pyinterceptor.runtime.runtime import Runtime

ASKED: Allowed = {
    "user": optional((is_text, "a user's name or number, as text")),
    "workdir": optional((is_path, "a path")),
    "files": optional(instances(Files, "Files(…)")),
}


@dataclass(frozen=True, slots=True)
class Asked:
    """The arguments of calls for a container. None stands for one that wasn't given."""

    image: str | None = None
    user: str | None = None
    files: Files | None = None
    replaced: bool = False

    def then(self, later: Asked) -> Asked:
        """Returns these arguments with those that a later call gives in their place."""
        return Asked(
            later.image, later.user or self.user, later.files or self.files, later.replaced or self.replaced
        )


@dataclass(frozen=True, slots=True)
class Start:
    """A container that was started as `asked`, and its runtime."""

    asked: Asked
    runtime: Runtime

    def contradictions(self, later: Asked) -> Iterator[str]:
        """Yields a sentence, with both values, for each argument of a later call that contradicts this container."""
        if later.image != self.asked.image:
            yield f"it runs {_image(self.asked.image)}, not {_image(later.image)}"
        elif later.user is not None and not self.runtime.runs_as(later.user):
            yield f"it runs as {self.runtime.user}, not as {later.user}"
        files = self.asked.files or Files()
        if later.files is not None and later.files != files:
            if later.files.workdir != files.workdir:
                yield f"it works in {_workdir(files)}, not in {_workdir(later.files)}"
            else:
                yield f"it has other files than {later.files}: {files}"
        if later.replaced and later.image is not None and not self.asked.replaced:
            yield "it runs its image's own command, which a later command can't replace"


def _image(image: str | None) -> str:
    return "without an image" if image is None else f"in {image}"


def _workdir(files: Files) -> str:
    return f"an empty {WORKDIR}" if files.workdir is None else str(files.workdir)
