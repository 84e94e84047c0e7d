"""A command of `exec` and `start`: a str or a sequence of str."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pyinterceptor import RuntimeFailure
from pyinterceptor.runtime.process import split


def test_a_str_is_split_as_a_shell_would_and_a_sequence_is_taken_as_it_is() -> None:
    assert split("echo 'a b' c") == ["echo", "a b", "c"]
    assert split(["echo", "a b", Path("/c")]) == ["echo", "a b", "/c"]
    assert split(("true",)) == ["true"]


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (5, "a command is a str or a sequence of str, not 5"),
        (None, "a command is a str or a sequence of str, not None"),
        (b"ls", "a command is a str or a sequence of str, not b'ls'"),
        ({"ls": 1}, "a command is a str or a sequence of str, not {'ls': 1}"),
        (["ls", 5], "a command's words are str, not int: 5"),
        (["ls", b"-l"], "a command's words are str, not bytes: b'-l'"),
    ],
)
def test_a_command_of_another_type_is_refused_in_a_sentence(wrong: Any, sentence: str) -> None:
    with pytest.raises(TypeError) as caught:
        split(wrong)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("wrong", ["", [], "echo 'a"])
def test_an_empty_command_or_an_open_quote_is_refused(wrong: Any) -> None:
    with pytest.raises(RuntimeFailure):
        split(wrong)
