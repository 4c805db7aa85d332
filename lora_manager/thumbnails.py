"""Keeps the thumbnails of adapters in step with the preview images beside their files.

Apart from the adapters themselves: an image that comes, changes or goes touches no adapter, and one
that is slow or hostile delays none.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from lora_manager.admitted_file import (
    FileChangedError,
    UnreadableError,
    admitted_file,
    read_bytes,
)
from lora_manager.lora_file import LoraFile
from lora_manager.previews import Preview, find_previews
from lora_manager.thumbnail_process import ThumbnailProcess, UnusableImageError
from wuliart.internal.v1 import segment_pb2
from wuliart_contract.adapter_names import printable
from wuliart_contract.limits import MAX_THUMBNAILS

log = logging.getLogger(__name__)

_T = TypeVar("_T")

MAX_PREVIEW_BYTES: Final = 32 << 20
"""Larger images are not read. A PNG of 4096 x 4096 pixels has about 25 MB."""

_BURST_SECONDS: Final = 0.1
"""Least time between two looks that events call for."""

_LOOK_SHARE: Final = 400
"""Looks that no event calls for take no more than a quarter percent of a core."""


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small JPEG."""

    jpeg: bytes
    hash: str
    """SHA-256 of the JPEG, 64 hexadecimal digits."""

    @classmethod
    def of(cls, jpeg: bytes) -> Thumbnail:
        """The thumbnail with its hash."""
        return cls(jpeg, hashlib.sha256(jpeg).hexdigest())


class Thumbnails:
    """The thumbnails of all admitted files.

    Args:
        root: the watched directory.
        files: returns the admitted files, by adapter name.
        on_change: called after each change of a thumbnail.
        rescan_seconds: least time between two looks that no event calls for.
    """

    def __init__(
        self,
        root: Path,
        files: Callable[[], Mapping[str, LoraFile]],
        on_change: Callable[[], None],
        *,
        rescan_seconds: float,
    ) -> None:
        self._root = root
        self._files = files
        self._on_change = on_change
        self._rescan_seconds = rescan_seconds
        self._wanted = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "previews")
        self._process = ThumbnailProcess()
        self._known: dict[str, tuple[Preview, Thumbnail | None]] = {}
        """By adapter name: the image and its thumbnail, None if it cannot be used."""
        self._problems: dict[str, str] = {}
        """By adapter name: why its last image gave no thumbnail, as logged."""
        self.complete = False
        """True once all images have been looked at."""

    def look(self) -> None:
        """Looks for changed images soon; called on the event loop."""
        self._wanted.set()

    def to_pb(self) -> list[segment_pb2.FileThumbnail]:
        """Returns which adapter has which thumbnail, sorted by name."""
        return [
            segment_pb2.FileThumbnail(name=name, thumbnail_hash=thumbnail.hash)
            for name, (_, thumbnail) in sorted(self._known.items())
            if thumbnail is not None
        ]

    def jpegs(self, hashes: Iterable[str]) -> list[bytes]:
        """Returns the JPEGs of these hashes that there are."""
        by_hash = {t.hash: t.jpeg for _, t in self._known.values() if t is not None}
        return [by_hash[each] for each in hashes if each in by_hash]

    async def run(self) -> None:
        """Follows the images until cancelled."""
        try:
            while True:
                self._wanted.clear()
                try:
                    cost = await self._look()
                except Exception:
                    # Without thumbnails the adapters are still all there.
                    log.exception("unforeseen failure in a look at the preview images")
                    cost = 1.0
                await asyncio.sleep(max(_BURST_SECONDS, 5 * cost))
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(self._rescan_seconds, _LOOK_SHARE * cost)):
                        await self._wanted.wait()
        finally:
            await self._process.stop()
            self._thread.shutdown(wait=False, cancel_futures=True)

    async def _look(self) -> float:
        """Brings all thumbnails up to date; returns the CPU seconds that finding images took."""
        files = dict(self._files())
        previews, cost = await self._in_thread(lambda: _find(self._root, files))
        for name in self._known.keys() - previews.keys():
            del self._known[name]
            self._problems.pop(name, None)
            self._on_change()
        for name, preview in previews.items():
            known = self._known.get(name)
            if known is None or known[0] != preview:
                await self._renew(name, preview)
        await self._process.stop()
        if not self.complete:
            self.complete = True
            self._on_change()
        return cost

    async def _renew(self, name: str, preview: Preview) -> None:
        """Makes the thumbnail of one image; what it was before stays while it cannot be read."""
        thumbnail, problem, final = None, "", True
        try:
            image = await self._in_thread(lambda: _read(preview))
            thumbnail = Thumbnail.of(await self._process.thumbnail(image))
        except FileChangedError:
            return  # seen by a later look
        except UnusableImageError as error:
            problem = str(error)
        except (UnreadableError, OSError) as error:
            problem, final = str(error), False
        if problem and self._problems.get(name) != problem:
            image_name = printable(preview.path.name)
            log.info('no thumbnail of "%s" from "%s": %s', name, image_name, problem)
        self._problems[name] = problem
        if final:
            self._known[name] = preview, thumbnail
            self._on_change()

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _find(root: Path, files: Mapping[str, LoraFile]) -> tuple[dict[str, Preview], float]:
    """Returns the images that thumbnails are made from, by name, and the CPU seconds it took."""
    began = time.thread_time()
    found = find_previews(root, files.values())
    return dict(sorted(found.items())[:MAX_THUMBNAILS]), time.thread_time() - began


def _read(preview: Preview) -> bytes:
    """Returns the image's bytes.

    Raises:
        UnusableImageError: it is too large.
        FileChangedError: it is not the one that was found.
        UnreadableError: the operating system refuses to read it.
    """
    size = preview.stamp.size
    if size > MAX_PREVIEW_BYTES:
        raise UnusableImageError(f"it has {size:,} bytes and {MAX_PREVIEW_BYTES:,} is the limit")
    with admitted_file(preview.path, preview.stamp) as file:
        data = read_bytes(file, size)
    if len(data) != size:
        raise FileChangedError(str(preview.path))
    return data
