"""Bounds what strangers can make libraries log: one line a minute of each kind, no traceback.

gRPC logs a traceback for a header that is not ASCII and for a stream that its client does not read
to the end; asyncio logs one for each connection that it has no descriptor for.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

SECONDS: Final = 60.0

LIMITED: Final[Mapping[str, tuple[str, ...]]] = {
    "grpc._cython.cygrpc": (
        "Invalid encoding on",
        "ExecuteBatchError raised in core",
        "Failed sending error status",
        "Aborting method",
    ),
    "asyncio": ("socket.accept() out of system resource",),
}
"""Loggers, and how the messages begin that strangers can cause."""


class LineAMinute(logging.Filter):
    """Lets a record pass if none of its kind has for a minute, and says how many did not.

    Other records pass as they are. Safe to use from several threads.

    Args:
        beginnings: of the messages, one for each kind.
        clock: monotonic seconds.
    """

    def __init__(
        self, beginnings: tuple[str, ...], clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._kind = re.compile("|".join(map(re.escape, beginnings)))
        self._clock = clock
        self._lock = threading.Lock()
        self._last: dict[str, float] = {}
        self._dropped: dict[str, int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Shortens the record, or returns False."""
        if (match := self._kind.match(str(record.msg))) is None:
            return True
        kind, now = match[0], self._clock()
        with self._lock:
            if now - self._last.get(kind, -SECONDS) < SECONDS:
                self._dropped[kind] = self._dropped.get(kind, 0) + 1
                return False
            self._last[kind] = now
            dropped = self._dropped.pop(kind, 0)
        more = f" ({dropped} more since the last such line)" if dropped else ""
        record.msg = f"{record.getMessage().splitlines()[0][:200]}{more}"
        record.args, record.exc_info, record.exc_text = (), None, None
        return True


def limit_libraries() -> None:
    """Puts the limits on the libraries' loggers; a second time changes nothing."""
    for name, beginnings in LIMITED.items():
        logger = logging.getLogger(name)
        if not any(isinstance(present, LineAMinute) for present in logger.filters):
            logger.addFilter(LineAMinute(beginnings))
