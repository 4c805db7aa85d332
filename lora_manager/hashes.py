"""Hashes of a file while it is read.

Each is computed in a thread of its own: a piece is hashed while the next
is read, and the rest while the factors are packed.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Final, NamedTuple, Self

_LENGTH_BYTES: Final = 8
"""A safetensors file begins with its header's length."""

_AUTOV3_DIGITS: Final = 12


class Hashes(NamedTuple):
    """Both in hexadecimal."""

    content: str
    """SHA-256 of the file, followed by its adapter_config.json if it has one: 64 digits."""
    autov3: str
    """SHA-256 of the file behind its header, the first 12 digits: what AUTOMATIC1111, Forge and
    Civitai call a LoRA's hash."""


class FileHashes:
    """Takes a safetensors file piece by piece. Use as a context manager."""

    def __init__(self) -> None:
        self._content, self._tensors = hashlib.sha256(), hashlib.sha256()
        self._header_left: int | None = None
        self._threads = ThreadPoolExecutor(1, "hash"), ThreadPoolExecutor(1, "autov3")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for thread in self._threads:
            thread.shutdown(cancel_futures=error is not None)

    def update(self, piece: memoryview) -> None:
        """Takes the next bytes of the file, which must not change; the first 8 come together."""
        if self._header_left is None:
            header = int.from_bytes(piece[:_LENGTH_BYTES], "little")
            self._header_left = _LENGTH_BYTES + header
        tensors = piece[self._header_left :]
        self._header_left = max(0, self._header_left - len(piece))
        whole, behind = self._threads
        whole.submit(self._content.update, piece)
        behind.submit(self._tensors.update, tensors)

    def finish(self, sidecar: bytes) -> Hashes:
        """Waits for both; `sidecar` is the content of adapter_config.json, empty without one."""
        whole, behind = self._threads
        whole.submit(self._content.update, sidecar)
        content, autov3 = whole.submit(self._content.hexdigest), behind.submit(self._autov3)
        return Hashes(content.result(), autov3.result())

    def _autov3(self) -> str:
        return self._tensors.hexdigest()[:_AUTOV3_DIGITS]
