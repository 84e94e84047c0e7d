"""Strikes secrets out of what is logged, tracebacks included."""

from __future__ import annotations

import logging
from collections.abc import Sequence

STRUCK_OUT = "[secret]"
TRACEBACKS = logging.Formatter()


class Redaction(logging.Filter):
    """A filter that lets every record pass, without the secrets in it.

    A record whose traceback holds one keeps only the traceback's text: the exception itself would say it again.
    """

    def __init__(self, secrets: Sequence[str]) -> None:
        super().__init__()
        # As it stands, and as repr shows it within another text; the longest first, as one may be part of another.
        self._secrets = sorted({form for text in secrets for form in (text, repr(text)[1:-1])}, key=len, reverse=True)

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
