"""HTTP/2 over a plain socket, to send what no well-behaved client library sends.

Writes frames and uncompressed header blocks, and reads the responses.
"""

from __future__ import annotations

import socket
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 3, 4


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return (
        struct.pack(">I", len(payload))[1:]
        + bytes([kind, flags])
        + struct.pack(">I", stream)
        + payload
    )


def header_block(headers: dict[str, str]) -> bytes:
    """Literal fields without indexing, without Huffman codes."""
    return b"".join(
        b"\0" + _text(name.encode()) + _text(value.encode()) for name, value in headers.items()
    )


def _text(text: bytes) -> bytes:
    if len(text) < 127:
        return bytes([len(text)]) + text
    rest, digits = len(text) - 127, b"\x7f"
    while rest >= 128:
        digits, rest = digits + bytes([rest % 128 + 128]), rest // 128
    return digits + bytes([rest]) + text


def message(body: bytes, length: int | None = None) -> bytes:
    """A gRPC message; with `length`, one that says it is so long."""
    return struct.pack(">BI", 0, len(body) if length is None else length) + body


@dataclass
class Connection:
    """One connection; single-threaded."""

    socket: socket.socket
    settings: dict[int, int] = field(default_factory=dict)
    """HTTP/2 settings that the server has sent: identifier -> value."""
    windows: Counter[int] = field(default_factory=Counter)
    """Bytes more that may be sent, by stream; 0 is the connection."""
    begun: set[int] = field(default_factory=set)
    """Streams that the server has sent headers of."""
    ended: set[int] = field(default_factory=set)
    """Streams that the server has ended or reset."""
    received: Counter[int] = field(default_factory=Counter)
    """Bytes of DATA by stream."""
    gone: bool = False
    _next: int = 1
    _rest: bytes = b""

    @classmethod
    def open(cls, port: int, settings: dict[int, int] | None = None) -> Self:
        connection = cls(socket.create_connection(("127.0.0.1", port), timeout=20))
        connection.windows[0] = 65535
        payload = b"".join(struct.pack(">HI", *pair) for pair in (settings or {}).items())
        connection.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, payload))
        while not connection.settings:
            connection.read()
        return connection

    def send(self, data: bytes) -> None:
        self.socket.settimeout(20)
        self.socket.sendall(data)

    def call(self, path: str, headers: dict[str, str] | None = None) -> int:
        """Begins a call; returns its stream."""
        stream, self._next = self._next, self._next + 2
        fields = {
            ":method": "POST", ":scheme": "http", ":path": path, ":authority": "localhost",
            "content-type": "application/grpc", "te": "trailers", **(headers or {}),
        }  # fmt: skip
        self.windows[stream] = self.settings.get(INITIAL_WINDOW_SIZE, 65535)
        self.send(frame(HEADERS, END_HEADERS, stream, header_block(fields)))
        return stream

    def data(self, stream: int, body: bytes, *, end: bool = False) -> int:
        """Sends as much as the windows allow; returns how much that is."""
        allowed = max(0, min(len(body), self.windows[stream], self.windows[0], 16384))
        end = end and allowed == len(body)
        self.windows[stream] -= allowed
        self.windows[0] -= allowed
        self.send(frame(DATA, END_STREAM if end else 0, stream, body[:allowed]))
        return allowed

    def read(self, timeout: float = 20.0) -> bool:
        """Takes in what has come; returns False if nothing did."""
        self.socket.settimeout(timeout)
        try:
            chunk = self.socket.recv(1 << 20)
        except (TimeoutError, BlockingIOError):
            return False
        except ConnectionError:
            chunk = b""
        if not chunk:
            self.gone = True
            return False
        self._rest += chunk
        while len(self._rest) >= 9:
            length = int.from_bytes(self._rest[:3], "big")
            if len(self._rest) < 9 + length:
                break
            kind, flags = self._rest[3], self._rest[4]
            stream = int.from_bytes(self._rest[5:9], "big")
            payload, self._rest = self._rest[9 : 9 + length], self._rest[9 + length :]
            self._take(kind, flags, stream, payload)
        return True

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == SETTINGS and not flags & ACK:
            before = self.settings.get(INITIAL_WINDOW_SIZE, 65535)
            for key, value in struct.iter_unpack(">HI", payload):
                self.settings[key] = value
            more = self.settings.get(INITIAL_WINDOW_SIZE, 65535) - before
            for open_stream in self.windows.keys() - {0}:
                self.windows[open_stream] += more
            self.send(frame(SETTINGS, ACK, 0))
        elif kind == PING and not flags & ACK:
            self.send(frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE:
            self.windows[stream] += int.from_bytes(payload, "big")
        elif kind == HEADERS:
            self.begun.add(stream)
        elif kind == DATA:
            self.received[stream] += len(payload)
        elif kind == GOAWAY:
            self.gone = True
        if kind == RST_STREAM or (kind in (DATA, HEADERS) and flags & END_STREAM):
            self.ended.add(stream)


@contextmanager
def connected(port: int, settings: dict[int, int] | None = None) -> Iterator[Connection]:
    """A connection for a `with` block."""
    connection = Connection.open(port, settings)
    try:
        yield connection
    finally:
        connection.socket.close()
