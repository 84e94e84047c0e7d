"""Keeps upstream's answers for as long as their TTL permits, denials included (RFC 2308).

Pure. The caller passes the time.
"""

from __future__ import annotations

from collections import OrderedDict

from pyinterceptor.dns.answers import Answer

CACHE_SIZE = 16 << 20  # bytes
ENTRY = 512  # bytes that an entry needs beside its question and its message, about


class Cache:
    """Answers by question. When `size` bytes are used, the least recently used answers are dropped."""

    def __init__(self, size: int = CACHE_SIZE) -> None:
        self._limit = size
        self._used = 0
        self._answers: OrderedDict[bytes, Answer] = OrderedDict()

    def get(self, question: bytes, now: float) -> Answer | None:
        """Returns the answer; None if there is none, or if its time is over."""
        answer = self._answers.get(question)
        if answer is None:
            return None
        if now - answer.came >= answer.ttl:
            self._drop(question)
            return None
        self._answers.move_to_end(question)
        return answer

    def put(self, question: bytes, answer: Answer) -> None:
        """Keeps an answer, if its TTL permits that."""
        if not answer.ttl:
            return
        if question in self._answers:
            self._drop(question)
        self._answers[question] = answer
        self._used += _size(question, answer)
        while self._used > self._limit:
            self._drop(next(iter(self._answers)))

    def _drop(self, question: bytes) -> None:
        self._used -= _size(question, self._answers.pop(question))


def _size(question: bytes, answer: Answer) -> int:
    return ENTRY + len(question) + len(answer.wire)
