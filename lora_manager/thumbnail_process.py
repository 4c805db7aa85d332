"""Starts the process that decodes preview images, and survives what an image does to it."""

from __future__ import annotations

import asyncio
import struct
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from contextlib import suppress
from typing import Final

from wuliart_contract.limits import MAX_THUMBNAIL_BYTES

_MODULE: Final = "lora_manager.thumbnail_worker"

_SECONDS: Final = 60.0
"""Longest wait for an answer. The process ends by itself after 10 s of computing; a machine that is
stopped or overloaded may take longer."""

_HEAD: Final = struct.Struct("<BI")
"""Before each answer, see the worker."""


class UnusableImageError(Exception):
    """The image gives no thumbnail; the message says why."""


class ThumbnailProcess:
    """The decoding process: started for the first image, again after one that ended it."""

    def __init__(self) -> None:
        self._process: Process | None = None

    async def thumbnail(self, image: bytes) -> bytes:
        """Returns the small JPEG of an image file.

        A process that ends is tried once more, as it may not be the image that ended it.

        Raises:
            UnusableImageError: there is none.
            OSError: the process cannot be started.
        """
        for _ in range(2):
            if (answer := await self._answer(image)) is not None:
                return answer
        raise UnusableImageError(
            "decoding it took too much time or memory, or crashed the decoder, twice"
        )

    async def _answer(self, image: bytes) -> bytes | None:
        """Returns the small JPEG; None if the process has ended or does not answer."""
        process = await self._running()
        assert process.stdin is not None and process.stdout is not None
        try:
            async with asyncio.timeout(_SECONDS):
                process.stdin.write(struct.pack("<I", len(image)) + image)
                await process.stdin.drain()
                good, size = _HEAD.unpack(await process.stdout.readexactly(_HEAD.size))
                if size > MAX_THUMBNAIL_BYTES:
                    raise EOFError("not an answer")
                answer = await process.stdout.readexactly(size)
        except (EOFError, OSError, TimeoutError):
            await self.stop()
            return None
        except asyncio.CancelledError:
            process.kill()
            raise
        if not good:
            raise UnusableImageError(answer.decode())
        return answer

    async def stop(self) -> None:
        """Ends the process, if it runs; the next image starts another."""
        if self._process is not None:
            process, self._process = self._process, None
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _running(self) -> Process:
        if self._process is None or self._process.returncode is not None:
            # -P: a module in the working directory must not stand in for one of ours. Warnings
            # quote the image, and do not belong into the log.
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", _MODULE, stdin=PIPE, stdout=PIPE, stderr=DEVNULL
            )
        return self._process
