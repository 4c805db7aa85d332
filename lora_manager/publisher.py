"""Brings one session of the server in step with the directory, one file at a time.

Owns what is loaded, evicted, listed and reported, and in which order, for as long as the session
lives. Knows nothing of events and scans: it is told names, and looks up what they stand for.
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
from lora_manager.candidates import LoraFile
from lora_manager.catalog import Entry, FileCatalog
from lora_manager.load_queue import LoadQueue, QueuedLoad, Urgency
from lora_manager.loading import FileChangedError, UnreadableError, load
from lora_manager.segment_errors import (
    NoFreeSlotError,
    ReservationLostError,
    SessionLostError,
    WriteRejectedError,
)
from lora_manager.segment_session import SegmentSession
from lora_manager.verdicts import Verdicts
from wuliart.internal.v1 import segment_pb2
from wuliart_lora.slot_image import SlotImage

log = logging.getLogger(__name__)

_REPORT_SECONDS: Final = 0.05
_REPORT_SHARE: Final = 5
"""Between two reports: the first look at many files must not send the whole list for each, nor keep
the server busy with lists for more than a sixth of the time."""


class Publisher:
    """The work of one session."""

    def __init__(
        self,
        session: SegmentSession,
        admission: Admission,
        catalog: FileCatalog,
        jobs: LoadQueue,
        dirty: asyncio.Event,
        loader: Executor,
        max_file_bytes: int,
        verdicts: Verdicts,
    ) -> None:
        self._session = session
        self._admission = admission
        self._catalog = catalog
        self._jobs = jobs
        self._dirty = dirty
        self._loader = loader
        self._max_file_bytes = max_file_bytes
        self._verdicts = verdicts
        self._job: QueuedLoad | None = None
        # Names of which the server may lack the adapter even if their files are unchanged.
        self._unsure = set(admission.known)
        self._replays_left = session.resident_limit
        # Names whose files changed while they were read: older ones leave them their places.
        self._coming: set[str] = set()
        self._burst = 0
        # A report between a commit and its entry would take the new adapter's name away again.
        self._publishing = asyncio.Lock()

    @property
    def _known(self) -> Mapping[str, LoraFile]:
        return self._admission.known

    async def run(self) -> None:
        """Replay the directory, then follow changes and promotions until the session is lost."""
        for name in self._catalog.names() - self._known.keys() - self._jobs.replaced():
            self._catalog.remove(name)
        for found in self._known.values():
            self._jobs.replay(found.name, found.stamp.mtime_ns)
        self._dirty.set()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen())
            tasks.create_task(self._work())
            tasks.create_task(self._report())

    async def _listen(self) -> None:
        async for name in self._session.promotions():
            entry = self._catalog.get(name)
            if name not in self._known or (entry is not None and entry.refusal):
                # The server knows less than this; tell it again.
                self._dirty.set()
            else:
                self._jobs.promote(name)

    async def _report(self) -> None:
        while True:
            await self._dirty.wait()
            async with self._publishing:
                self._dirty.clear()
                began = time.monotonic()
                await self._session.report(self._catalog.to_pb(), self._pending(), self._waiting())
                took = time.monotonic() - began
            await asyncio.sleep(max(_REPORT_SECONDS, _REPORT_SHARE * took))

    def _pending(self) -> list[str]:
        """Names that the server must not take away, although they are not in the catalog yet."""
        replaced = self._job.replaces if self._job is not None else ()
        names = self._admission.present | self._jobs.replaced() | frozenset(replaced)
        return sorted(names - self._catalog.names())

    def _waiting(self) -> list[segment_pb2.WaitingFile]:
        """Files that are not finished, sorted by name."""
        return [
            segment_pb2.WaitingFile(
                name=name, size_bytes=waiting.found.stamp.size, reason=waiting.reason
            )
            for name, waiting in sorted(self._admission.waiting.items())
        ]

    async def _work(self) -> None:
        while True:
            if not self._jobs.has(Urgency.CHANGE):
                self._burst = 0
            self._job = job = self._jobs.pop()
            if job is None:
                await self._jobs.wait()
                continue
            try:
                await self._do(job)
            except (SessionLostError, asyncio.CancelledError):
                # The next session does it.
                self._jobs.put_back(job)
                raise
            self._forget(*job.replaces)

    async def _do(self, job: QueuedLoad) -> None:
        found = self._known.get(job.name)
        if found is None:
            return
        known = self._catalog.get(job.name)
        wanted = (
            job.urgency is Urgency.PROMOTE
            or (job.urgency is Urgency.CHANGE and self._burst < self._session.resident_limit)
            or (job.urgency is Urgency.REPLAY and self._replays_left > len(self._coming))
        )
        judged = known is not None and known.found == found
        if job.urgency is Urgency.REPLAY and judged and (not wanted or found.refusal):
            self._unsure.discard(job.name)
            return
        if self._is_told_by_earlier_run(job, found, wanted=wanted):
            return
        # A change of the file's times alone is none, unless the server may lack the adapter.
        compare = job.urgency is Urgency.CHANGE and job.name not in self._unsure
        began = time.perf_counter()
        try:
            loaded = await asyncio.get_running_loop().run_in_executor(
                self._loader,
                partial(
                    load, found, known if compare else None, self._session.shape,
                    self._max_file_bytes, want_image=wanted,
                ),
            )  # fmt: skip
        except FileChangedError:
            # It may be what was admitted again by the next scan, as after a rename and back.
            log.debug('"%s" changed while it was read; waiting until it is done', job.name)
            self._admission.retry(job.name)
            if wanted:
                self._coming.add(job.name)
            return
        except UnreadableError as error:
            if self._known.get(job.name) == found:
                self._list(Entry(found, refusal=str(error)))
                self._admission.retry(job.name)
            return
        if self._known.get(job.name) != found:
            return  # changed or removed meanwhile; that has its own job
        self._unsure.discard(job.name)
        self._coming.discard(job.name)
        self._verdicts.put(loaded.entry, self._session.shape.layout.hash)
        if loaded.image is None:
            self._list(loaded.entry, quiet=loaded.unchanged)
            return
        async with self._publishing:
            outcome = await self._publish(job, loaded.entry, loaded.image)
            if self._known.get(job.name) == found:
                self._set(loaded.entry)
                if outcome == "resident":
                    # The server asks again while it waits; this was the answer.
                    self._forget(*self._jobs.discard(job.name))
            else:
                self._dirty.set()
            self._forget(*job.replaces)
        log.info(
            "%s %s, %s in %.0f ms",
            _deed(job, known), _described(loaded.entry), outcome,
            (time.perf_counter() - began) * 1000,
        )  # fmt: skip

    def _is_told_by_earlier_run(self, job: QueuedLoad, found: LoraFile, *, wanted: bool) -> bool:
        """Lists the file without reading it, if an earlier run has judged it as it is.

        One that is to become resident is read, unless it was refused.
        """
        entry = self._verdicts.find(found, self._session.shape.layout.hash)
        if (
            entry is None
            or (wanted and not entry.refusal)
            or found.stamp.size > self._max_file_bytes
        ):
            return False
        self._unsure.discard(job.name)
        self._coming.discard(job.name)
        self._list(entry)
        return True

    async def _publish(self, job: QueuedLoad, entry: Entry, image: SlotImage) -> str:
        """Write the image into a slot; returns in words what became of it."""
        if job.urgency is Urgency.CHANGE:
            self._burst += 1
        try:
            await self._session.publish(
                entry, image, evict=job.urgency is not Urgency.REPLAY, noticed=job.noticed
            )
        except NoFreeSlotError as error:
            if job.urgency is Urgency.REPLAY:
                self._replays_left = 0
            return f"listed ({error})"
        except (ReservationLostError, WriteRejectedError) as error:
            log.error('"%s" could not be written: %s', entry.name, error)
            return "listed"
        if job.urgency is Urgency.REPLAY:
            self._replays_left -= 1
        return "resident"

    def _list(self, entry: Entry, *, quiet: bool = False) -> None:
        """Make the entry known without loading it."""
        if self._set(entry) and not quiet:
            if entry.refusal:
                log.warning('refused "%s": %s', entry.name, entry.refusal)
            else:
                log.info("listed %s", _described(entry))

    def _set(self, entry: Entry) -> bool:
        news = self._catalog.put(entry)
        if news:
            self._dirty.set()
        return news

    def _forget(self, *names: str) -> None:
        for name in names:
            if name not in self._known:
                self._catalog.remove(name)
                self._dirty.set()


def _deed(job: QueuedLoad, known: Entry | None) -> str:
    match job.urgency:
        case Urgency.PROMOTE:
            return "promoted"
        case Urgency.REPLAY:
            return "loaded"
    if job.replaces:
        return f'renamed "{job.replaces[-1]}" to'
    return "added" if known is None else "replaced"


def _described(entry: Entry) -> str:
    size = entry.found.stamp.size / 1e6
    return f'"{entry.name}" rank {entry.rank} {size:.1f} MB {entry.content_hash[:8]}…'
