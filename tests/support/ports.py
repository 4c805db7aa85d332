"""TCP ports for processes that a test starts with a fixed number."""

from __future__ import annotations

import itertools
import os
import socket

FIRST, LAST = 10_000, 32_000
"""Below the range from which Linux gives ports to connections (ip_local_port_range, from 32768)."""

_NEXT = itertools.count(os.getpid() * 97)


def free_port() -> int:
    """Returns a port of 127.0.0.1 that no process listens on.

    A port that the kernel chooses may be given to a connection of another process before the
    test's server listens on it. Workers start their count at different numbers.
    """
    for number in _NEXT:
        port = FIRST + number % (LAST - FIRST)
        with socket.socket() as probe:
            # As servers do it: connections that have ended do not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError("the count has no end")
