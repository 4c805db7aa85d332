"""The process at the other end of a Unix socket, as the kernel knows it."""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass
from typing import Final

_UCRED: Final = struct.Struct("3i")
"""struct ucred of unix(7): process, user, group."""


@dataclass(frozen=True, slots=True)
class Peer:
    """The process that connected; for a client, the process that listens."""

    pid: int
    """0 if the process is outside this process's PID namespace."""
    uid: int

    @classmethod
    def of(cls, connection: socket.socket) -> Peer:
        """Returns the peer of a connected Unix socket (SO_PEERCRED)."""
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        pid, uid, _ = _UCRED.unpack(credentials)
        return cls(pid, uid)

    @property
    def is_this_user(self) -> bool:
        """True if the process runs as this process's effective user."""
        return self.uid == os.geteuid()
