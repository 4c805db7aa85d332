"""What is looked at of a request before it is parsed: its head's size, and how its body is sent.

uvicorn's parser is Python and works through all that has arrived before anything else runs: a
quarter of a megabyte of one-byte chunks took it two seconds. Bodies have to declare their length
here, and nothing is read behind a request before its answer has ended.
"""

from __future__ import annotations

import re
from typing import Final

MOST_HEAD_BYTES: Final = 32 << 10
"""A browser's cookies for one host are at most a quarter of that, as a rule."""

_END: Final = re.compile(rb"\n\r?\n")
_LENGTH: Final = re.compile(rb"\ncontent-length:[ \t]*(\d{1,15})[ \t]*\r?\n", re.IGNORECASE)
_ENCODED: Final = re.compile(rb"\ntransfer-encoding[ \t]*:", re.IGNORECASE)
_METHOD: Final = re.compile(rb"(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) ")

NO_LENGTH: Final = 411
HEAD_TOO_LARGE: Final = 431
NO_SUCH_METHOD: Final = 501


class HeadGate:
    """The requests of one connection, one after another.

    `refused` is the HTTP status of a request that must not be parsed; the connection ends with it.
    """

    def __init__(self) -> None:
        self.refused = 0
        self._head = bytearray()
        self._body_left = 0

    def take(self, data: bytes, *, busy: bool) -> bytes | None:
        """Takes bytes from the connection.

        Args:
            data: what has arrived.
            busy: True while a request is being answered.

        Returns:
            What may be parsed now, empty for nothing yet; None if the connection is to be closed:
            with `refused`, or at once because more came than the request that is being answered.
        """
        if self._body_left:
            rest = len(data) - self._body_left
            self._body_left = max(0, -rest)
            return data if rest <= 0 else None
        if busy:
            return None
        self._head += data
        end = _END.search(self._head)
        if end is None and len(self._head) <= MOST_HEAD_BYTES:
            return b""
        if end is None or end.end() > MOST_HEAD_BYTES:
            return self._refuse(HEAD_TOO_LARGE)
        whole, self._head = bytes(self._head), bytearray()
        head = whole[: end.end()]
        if not _METHOD.match(head):
            return self._refuse(NO_SUCH_METHOD)
        if _ENCODED.search(head):
            return self._refuse(NO_LENGTH)
        declared = _LENGTH.search(head)
        self._body_left = int(declared[1]) if declared else 0
        rest = len(whole) - len(head) - self._body_left
        self._body_left = max(0, -rest)
        # More than one request in one piece: no client of the page pipelines.
        return whole if rest <= 0 else None

    def _refuse(self, status: int) -> bytes | None:
        self.refused = status
        return None
