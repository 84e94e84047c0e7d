"""Replaces secrets in log records, tracebacks included."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from functools import partial
from urllib.parse import quote, quote_plus

STRUCK_OUT = "[secret]"
TRACEBACKS = logging.Formatter()
QUOTES = "'\""  # a text with both quotes makes repr escape the single one: it writes these two as three characters
LINE = 6  # characters; a shorter line of a secret is too common to be replaced by itself


class Redaction(logging.Filter):
    """A filter that drops no record, but replaces the secrets in its message and traceback.

    If the traceback contains a secret, the record keeps the traceback as text only, because a formatter would print the
    secret again from the exception itself.
    """

    def __init__(self, secrets: Sequence[str]) -> None:
        super().__init__()
        # The longest first, because one secret may be a part of another.
        self._secrets = sorted({form for text in secrets for form in _forms(text)}, key=len, reverse=True)

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if self._has_secret(message):
            record.msg, record.args = self._struck(message), None
        if record.exc_info and record.exc_info[1] is not None:
            text = record.exc_text or TRACEBACKS.formatException(record.exc_info)
            if self._has_secret(text):
                record.exc_info, record.exc_text = None, self._struck(text)
        return True

    def _has_secret(self, text: str) -> bool:
        return any(secret in text for secret in self._secrets)

    def _struck(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, STRUCK_OUT)
        return text


def _forms(text: str) -> Iterator[str]:
    """Yields the forms in which a log may contain the secret `text`: as it is; line by line, because the traceback of
    an exception group indents each line; and as repr, JSON and URLs encode it. repr encodes it differently where both
    kinds of quotes stand beside it."""
    yield text
    yield from (line for line in text.splitlines() if len(line) >= LINE)
    yield from (show(text)[1:-1] for show in (repr, ascii, json.dumps, partial(json.dumps, ensure_ascii=False)))
    yield from (show(text + QUOTES)[1:-4] for show in (repr, ascii))
    encoded = text.encode("utf-8", "surrogateescape")
    yield repr(encoded)[2:-1]
    yield repr(encoded + QUOTES.encode())[2:-4]
    yield from (quote(encoded), quote(encoded, safe=""), quote_plus(encoded))
