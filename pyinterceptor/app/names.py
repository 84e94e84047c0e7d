"""Checks the names in a container class.

Pure. A misspelt setting would leave its default in force, and the default opens the internet. Therefore every
unknown public name is refused, and the error names the setting that was probably meant.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from pyinterceptor.errors import PolicyError

SETTINGS = frozenset({"budget", "enable_internet", "image", "local_networks", "outbound", "outbound_by_host"}) | {
    "outbound_handlers",
    *("cpu", "memory", "pids", "tmp"),
}
NOT_BUILT = frozenset(
    {"allowed_hosts", "denied_hosts", "intercept_https", "passthrough_hosts", "refused"}
)
# The methods that every container has, on its instance or its stub. A method of the user's own has another name.
BUILT_INS = frozenset(
    {
        *("exec", "has_ended", "pid", "run_inherited", "start", "stop"),
        *("remove_outbound_by_host", "remove_outbound_handler", "reset_outbound"),
        *("set_outbound_by_host", "set_outbound_by_hosts", "set_outbound_handler"),
    }
)
TINY = 4  # letters; so many other words are one edit from a setting of at most that many that only values are refused
SHORT = 6  # letters; a name within one edit of a setting of at most that many is refused, within two of a longer one


def check_name(name: str, owner: str) -> None:
    """Raises PolicyError if the name is a misspelt setting, or a setting that isn't built yet."""
    if name.startswith("_") or name in SETTINGS:
        return
    meant = nearest(name)
    if meant in NOT_BUILT:
        unknown = "" if meant == name else f"unknown attribute of {owner}; did you mean {meant}? It is "
        raise PolicyError(f"{name}: {unknown}not built yet: this version doesn't have {meant}; remove it from {owner}")
    if meant is not None:
        raise PolicyError(f"{name}: unknown attribute of {owner}; did you mean {meant}?")


def check_built_in(name: str, owner: str) -> None:
    """Raises PolicyError if the name is that of a method which every container has."""
    if name in BUILT_INS:
        raise PolicyError(f"{name}: a method that every container has; give the one of {owner} another name")


def check_value(name: str, value: object, owner: str, declared: Iterable[str]) -> None:
    """Raises PolicyError if a public value is neither a setting, a method, a class, a property nor in `declared`.

    One in `declared` is refused as well if its name is one edit from that of a tiny setting.
    """
    if name.startswith("_") or name in SETTINGS or _is_member(value):
        return
    for tiny in sorted(SETTINGS):
        if len(_letters(tiny)) <= TINY and distance(_letters(name), _letters(tiny)) <= 1:
            raise PolicyError(f"{name}: unknown attribute of {owner}; did you mean {tiny}?")
    if name in declared:
        return
    settings = {_letters(setting): setting for setting in SETTINGS}
    close = get_close_matches(_letters(name), settings, 1)
    hint = f"did you mean {settings[close[0]]}?" if close else f"its settings are {', '.join(sorted(SETTINGS))}."
    own = f"An attribute of your own needs an annotation: {name}: {type(value).__name__} = …"
    raise PolicyError(f"{name}: unknown attribute of {owner}; {hint} {own}")


def check_body(cls: type, body: Mapping[str, object], owner: str) -> None:
    """Checks every name in a class body, annotated or not. Raises PolicyError if one is unknown or misspelt."""
    annotated = annotations_of(cls)
    for name in annotated:
        check_name(name, owner)
        if name in SETTINGS and name not in body:
            raise PolicyError(f"{name}: annotated in {owner} but not set; write {name} = …")
    declared = names_of(cls.__mro__[1:]) | annotated
    for name, value in body.items():
        check_name(name, owner)
        check_value(name, value, owner, declared)


def names_of(classes: Iterable[type]) -> set[str]:
    """Returns every name that these classes set or annotate."""
    return {name for cls in classes for name in (*vars(cls), *annotations_of(cls))}


def annotations_of(cls: type) -> set[str]:
    """Returns the names that are annotated in the class's own body."""
    if sys.version_info >= (3, 14):
        from annotationlib import Format, get_annotations

        return set(get_annotations(cls, format=Format.FORWARDREF))  # annotations may use names that aren't defined yet
    return set(vars(cls).get("__annotations__", ()))


def nearest(name: str) -> str | None:
    """Returns the setting within one or two edits of this name; None if no setting is that close."""
    near = [(distance(_letters(name), _letters(known)), known) for known in (*SETTINGS, *NOT_BUILT)]
    return min(((edits, known) for edits, known in near if edits <= _edits(known)), default=(0, None))[1]


def _edits(known: str) -> int:
    """Returns the number of edits within which a name is taken for this setting."""
    letters = len(_letters(known))
    return 0 if letters <= TINY else 1 if letters <= SHORT else 2


def distance(one: str, other: str) -> int:
    """Returns the Damerau-Levenshtein distance of two texts, in its restricted form: no part is edited twice.

    An edit inserts, deletes or replaces a character, or exchanges two neighbours.
    """
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        before, last, row = row, before, [i]
        for j, b in enumerate(other, 1):
            row.append(min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b)))
            if i > 1 and j > 1 and (a, one[i - 2]) == (other[j - 2], b):
                row[j] = min(row[j], last[j - 2] + 1)
    return row[-1]


def _letters(name: str) -> str:
    return name.replace("_", "").casefold()


def _is_member(value: Any) -> bool:
    """Whether the value is a class, or a descriptor: methods and properties have `__get__`."""
    return isinstance(value, type) or hasattr(type(value), "__get__")
