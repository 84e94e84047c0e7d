"""Strikes secrets out of what is logged, tracebacks included."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from functools import partial
from urllib.parse import quote, quote_plus

STRUCK_OUT = "[secret]"
TRACEBACKS = logging.Formatter()
QUOTES = "'\""  # what repr then writes as three characters
LINE = 6  # characters of a line that is worth striking out by itself


class Redaction(logging.Filter):
    """A filter that lets every record pass, without the secrets in it.

    A record whose traceback holds one keeps only the traceback's text: the exception itself would say it again.
    """

    def __init__(self, secrets: Sequence[str]) -> None:
        super().__init__()
        # The longest first, as one may be part of another.
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
    """How it may stand in a text: as it is; its lines, which a traceback of a group indents one by one; and as repr,
    JSON and URLs write it, by itself or beside both quotes."""
    yield text
    yield from (line for line in text.splitlines() if len(line) >= LINE)
    yield from (show(text)[1:-1] for show in (repr, ascii, json.dumps, partial(json.dumps, ensure_ascii=False)))
    yield from (show(text + QUOTES)[1:-4] for show in (repr, ascii))
    encoded = text.encode("utf-8", "surrogateescape")
    yield repr(encoded)[2:-1]
    yield repr(encoded + QUOTES.encode())[2:-4]
    yield from (quote(encoded), quote(encoded, safe=""), quote_plus(encoded))
