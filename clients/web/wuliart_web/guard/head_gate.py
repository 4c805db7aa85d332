"""Checks a request's head before it is parsed: its size, its method, how its body is framed.

uvicorn's parser is written in Python and works through everything that has arrived before anything
else runs: a quarter of a megabyte of one-byte chunks took it two seconds. Here bodies must declare
their length, and no bytes are read past a request until its response has ended.
"""

from __future__ import annotations

import re
from typing import Final

MAX_HEAD_BYTES: Final = 32 << 10
"""A browser's cookies for one host rarely take more than a quarter of it."""

_END: Final = re.compile(rb"\n\r?\n")
_LENGTH: Final = re.compile(rb"\ncontent-length:[ \t]*(\d{1,15})[ \t]*\r?\n", re.IGNORECASE)
_ENCODED: Final = re.compile(rb"\ntransfer-encoding[ \t]*:", re.IGNORECASE)
_METHOD: Final = re.compile(rb"(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) ")

NO_LENGTH: Final = 411
HEAD_TOO_LARGE: Final = 431
NO_SUCH_METHOD: Final = 501


class HeadGate:
    """Checks the requests of one connection, one after another.

    `rejected` is the HTTP status for a request that must not be parsed, 0 without one; the
    connection ends with it.
    """

    def __init__(self) -> None:
        self.rejected = 0
        self._head = bytearray()
        self._body_left = 0

    def take(self, data: bytes, *, busy: bool) -> bytes | None:
        """Takes bytes from the connection.

        Args:
            data: what has arrived.
            busy: True while a request is being answered.

        Returns:
            Bytes to parse now, empty if more are needed; None if the connection must be closed:
            with the status `rejected`, or without a response because bytes arrived past the
            request that is being answered.
        """
        if self._body_left:
            rest = len(data) - self._body_left
            self._body_left = max(0, -rest)
            return data if rest <= 0 else None
        if busy:
            return None
        self._head += data
        end = _END.search(self._head)
        if end is None and len(self._head) <= MAX_HEAD_BYTES:
            return b""
        if end is None or end.end() > MAX_HEAD_BYTES:
            return self._reject(HEAD_TOO_LARGE)
        whole, self._head = bytes(self._head), bytearray()
        head = whole[: end.end()]
        if not _METHOD.match(head):
            return self._reject(NO_SUCH_METHOD)
        if _ENCODED.search(head):
            return self._reject(NO_LENGTH)
        declared = _LENGTH.search(head)
        self._body_left = int(declared[1]) if declared else 0
        rest = len(whole) - len(head) - self._body_left
        self._body_left = max(0, -rest)
        # No client of the page pipelines requests.
        return whole if rest <= 0 else None

    def _reject(self, status: int) -> bytes | None:
        self.rejected = status
        return None
