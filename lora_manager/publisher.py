"""Keeps one session of the server in step with the directory, one file at a time.

Decides what is loaded, evicted, listed and reported, and in which order, while the session lasts.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from concurrent.futures import Executor
from functools import partial
from typing import Final

from lora_manager.admission import Admission
from lora_manager.admitted_file import FileChangedError, UnreadableError
from lora_manager.catalog import Entry, FileCatalog
from lora_manager.load_queue import LoadQueue, QueuedLoad, Urgency
from lora_manager.loading import load
from lora_manager.lora_file import LoraFile
from lora_manager.segment_errors import (
    NoFreeSlotError,
    ReservationLostError,
    SessionLostError,
    WriteRejectedError,
)
from lora_manager.segment_session import SegmentSession
from lora_manager.thumbnails import Thumbnails
from lora_manager.verdicts import Verdicts
from wuliart.internal.v1 import segment_pb2
from wuliart_lora.slot_image import SlotImage

log = logging.getLogger(__name__)

_REPORT_SECONDS: Final = 0.05
_REPORT_SHARE: Final = 5
"""Least pause between two reports, in seconds and as a multiple of the time that the last one took.

The first look at many files must not send the whole list for each, nor keep the server busy with
lists for more than a sixth of the time."""


class Publisher:
    """The work of one session."""

    def __init__(
        self,
        session: SegmentSession,
        *,
        admission: Admission,
        catalog: FileCatalog,
        queue: LoadQueue,
        dirty: asyncio.Event,
        loader: Executor,
        max_file_bytes: int,
        verdicts: Verdicts,
        thumbnails: Thumbnails,
    ) -> None:
        self._session = session
        self._admission = admission
        self._catalog = catalog
        self._queue = queue
        self._dirty = dirty
        self._loader = loader
        self._max_file_bytes = max_file_bytes
        self._verdicts = verdicts
        self._thumbnails = thumbnails
        self._current: QueuedLoad | None = None
        # Names of which the server may lack the adapter even if their files are unchanged.
        self._unconfirmed = set(admission.known)
        self._replays_left = session.resident_limit
        # Names whose files changed while they were read: older ones leave them their places.
        self._being_rewritten: set[str] = set()
        self._changes_in_a_row = 0
        # A report between a commit and its entry would take the new adapter's name away again.
        self._publishing = asyncio.Lock()

    @property
    def _known(self) -> Mapping[str, LoraFile]:
        return self._admission.known

    async def run(self) -> None:
        """Replays the directory, then follows changes and promotions until the session is lost."""
        for name in self._catalog.names() - self._known.keys() - self._queue.replaced():
            self._catalog.remove(name)
        for found in self._known.values():
            self._queue.replay(found.name, found.stamp.mtime_ns)
        self._dirty.set()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen())
            tasks.create_task(self._process_queue())
            tasks.create_task(self._report())

    async def _listen(self) -> None:
        async for name in self._session.promotions():
            entry = self._catalog.get(name)
            if name not in self._known or (entry is not None and entry.refusal):
                # The server knows less than this; tell it again.
                self._dirty.set()
            else:
                self._queue.promote(name)

    async def _report(self) -> None:
        while True:
            await self._dirty.wait()
            async with self._publishing:
                self._dirty.clear()
                began = time.monotonic()
                missing = await self._session.report(
                    segment_pb2.ReportCatalogRequest(
                        entries=self._catalog.to_pb(),
                        pending=self._pending(),
                        waiting=self._waiting(),
                        thumbnails=self._thumbnails.to_pb(),
                        thumbnails_complete=self._thumbnails.complete,
                    )
                )
                took = time.monotonic() - began
            await self._session.put_thumbnails(self._thumbnails.jpegs(missing))
            await asyncio.sleep(max(_REPORT_SECONDS, _REPORT_SHARE * took))

    def _pending(self) -> list[str]:
        """Names that the server must not take away, although they are not in the catalog yet."""
        replaced = self._current.replaces if self._current is not None else ()
        names = self._admission.present | self._queue.replaced() | frozenset(replaced)
        return sorted(names - self._catalog.names())

    def _waiting(self) -> list[segment_pb2.WaitingFile]:
        """Files that are not finished, sorted by name."""
        return [
            segment_pb2.WaitingFile(
                name=name, size_bytes=waiting.found.stamp.size, reason=waiting.reason
            )
            for name, waiting in sorted(self._admission.waiting.items())
        ]

    async def _process_queue(self) -> None:
        while True:
            if not self._queue.has(Urgency.CHANGE):
                self._changes_in_a_row = 0
            self._current = queued = self._queue.pop()
            if queued is None:
                await self._queue.wait()
                continue
            try:
                await self._process(queued)
            except (SessionLostError, asyncio.CancelledError):
                # The next session does it.
                self._queue.put_back(queued)
                raise
            self._forget(*queued.replaces)

    async def _process(self, queued: QueuedLoad) -> None:
        found = self._known.get(queued.name)
        if found is None:
            return
        known = self._catalog.get(queued.name)
        make_resident = (
            queued.urgency is Urgency.PROMOTE
            or (
                queued.urgency is Urgency.CHANGE
                and self._changes_in_a_row < self._session.resident_limit
            )
            or (
                queued.urgency is Urgency.REPLAY and self._replays_left > len(self._being_rewritten)
            )
        )
        judged = known is not None and known.found == found
        if queued.urgency is Urgency.REPLAY and judged and (not make_resident or found.refusal):
            self._unconfirmed.discard(queued.name)
            return
        if self._list_from_earlier_run(queued, found, make_resident=make_resident):
            return
        # A change of the file's times alone is none, unless the server may lack the adapter.
        compare = queued.urgency is Urgency.CHANGE and queued.name not in self._unconfirmed
        began = time.perf_counter()
        try:
            loaded = await asyncio.get_running_loop().run_in_executor(
                self._loader,
                partial(
                    load, found, known if compare else None, self._session.shape,
                    self._max_file_bytes, want_image=make_resident,
                ),
            )  # fmt: skip
        except FileChangedError:
            # It may be what was admitted again by the next scan, as after a rename and back.
            log.debug('"%s" changed while it was read; waiting until it is done', queued.name)
            self._admission.retry(queued.name)
            if make_resident:
                self._being_rewritten.add(queued.name)
            return
        except UnreadableError as error:
            if self._known.get(queued.name) == found:
                self._list(Entry(found, refusal=str(error)))
                self._admission.retry(queued.name)
            return
        if self._known.get(queued.name) != found:
            return  # changed or removed meanwhile; that has queued its own load
        self._unconfirmed.discard(queued.name)
        self._being_rewritten.discard(queued.name)
        self._verdicts.put(loaded.entry, self._session.shape.layout.hash)
        if loaded.image is None:
            self._list(loaded.entry, quiet=loaded.unchanged)
            return
        async with self._publishing:
            outcome = await self._publish(queued, loaded.entry, loaded.image)
            if self._known.get(queued.name) == found:
                self._put(loaded.entry)
                if outcome == "resident":
                    # The server asks again while it waits; this was the answer.
                    self._forget(*self._queue.discard(queued.name))
            else:
                self._dirty.set()
            self._forget(*queued.replaces)
        log.info(
            "%s %s, %s in %.0f ms",
            _action(queued, known), _described(loaded.entry), outcome,
            (time.perf_counter() - began) * 1000,
        )  # fmt: skip
        _log_notes(loaded.entry)

    def _list_from_earlier_run(
        self, queued: QueuedLoad, found: LoraFile, *, make_resident: bool
    ) -> bool:
        """Lists the file without reading it, if an earlier run has judged it as it is.

        One that is to become resident is read, unless it was refused.
        """
        entry = self._verdicts.find(found, self._session.shape.layout.hash)
        if (
            entry is None
            or (make_resident and not entry.refusal)
            or found.stamp.size > self._max_file_bytes
        ):
            return False
        self._unconfirmed.discard(queued.name)
        self._being_rewritten.discard(queued.name)
        self._list(entry)
        return True

    async def _publish(self, queued: QueuedLoad, entry: Entry, image: SlotImage) -> str:
        """Writes the image into a slot; returns the outcome as words for the log."""
        if queued.urgency is Urgency.CHANGE:
            self._changes_in_a_row += 1
        try:
            await self._session.publish(
                entry, image, evict=queued.urgency is not Urgency.REPLAY, noticed=queued.noticed
            )
        except NoFreeSlotError as error:
            if queued.urgency is Urgency.REPLAY:
                self._replays_left = 0
            return f"listed ({error})"
        except (ReservationLostError, WriteRejectedError) as error:
            log.error('"%s" could not be written: %s', entry.name, error)
            return "listed"
        if queued.urgency is Urgency.REPLAY:
            self._replays_left -= 1
        return "resident"

    def _list(self, entry: Entry, *, quiet: bool = False) -> None:
        """Lists the entry without loading the file."""
        if self._put(entry) and not quiet:
            if entry.refusal:
                log.warning('refused "%s": %s', entry.name, entry.refusal)
            else:
                log.info("listed %s", _described(entry))
                _log_notes(entry)

    def _put(self, entry: Entry) -> bool:
        differs = self._catalog.put(entry)
        if differs:
            self._dirty.set()
        return differs

    def _forget(self, *names: str) -> None:
        for name in names:
            if name not in self._known:
                self._catalog.remove(name)
                self._dirty.set()


def _action(queued: QueuedLoad, known: Entry | None) -> str:
    match queued.urgency:
        case Urgency.PROMOTE:
            return "promoted"
        case Urgency.REPLAY:
            return "loaded"
    if queued.replaces:
        return f'renamed "{queued.replaces[-1]}" to'
    return "added" if known is None else "replaced"


def _log_notes(entry: Entry) -> None:
    for note in entry.notes:
        log.info('"%s": %s', entry.name, note)


def _described(entry: Entry) -> str:
    size = entry.found.stamp.size / 1e6
    return f'"{entry.name}" rank {entry.rank} {size:.1f} MB {entry.content_hash[:8]}…'
