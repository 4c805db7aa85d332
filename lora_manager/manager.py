"""The manager: a directory on one side, sessions with the server on the other, for ever.

Keeps what outlives a session (admitted files, judged entries, queued loads) and decides when to
attach again. The server may come, go and change at any moment; the manager stays.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from lora_manager.admission import Admission, DirectoryChanges
from lora_manager.catalog import FileCatalog
from lora_manager.config import ManagerConfig
from lora_manager.device_mapping import DeviceUnavailableError
from lora_manager.follower import DirectoryFollower
from lora_manager.load_queue import LoadQueue
from lora_manager.publisher import Publisher
from lora_manager.segment_errors import (
    AlreadyAttachedError,
    SegmentError,
    UntrustedServerError,
    VersionMismatchError,
)
from lora_manager.segment_session import SegmentSession, attach
from lora_manager.thumbnails import Thumbnails
from lora_manager.verdict_file import VerdictFile
from lora_manager.verdicts import Verdicts, to_json

log = logging.getLogger(__name__)

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 0.25
_VERDICTS_SECONDS: Final = 5.0
"""Between two times that new verdicts are written."""

_SETTLE_LOOKS: Final = 5
_LONGEST_SETTLE_SECONDS: Final = 10.0
"""How long a file must stay equal if the system does not say whether a process has it open: on a
network mount, or another user's file that no event has reported closed."""

_MISMATCH_PAUSE: Final = 5.0
"""Seconds before attaching again; versions and owners do not change by waiting, but a server or
its folder may be replaced by one that fits."""


class LoraManager:
    """Everything the process does after its start."""

    def __init__(self, config: ManagerConfig) -> None:
        self._config = config
        self._admission = Admission(
            # The time between two scans, less the amount by which timers may be early.
            quiet_seconds=0.9 * config.rescan_seconds,
            settle_seconds=min(_SETTLE_LOOKS * config.rescan_seconds, _LONGEST_SETTLE_SECONDS),
        )
        self._catalog = FileCatalog()
        self._queue = LoadQueue()
        self._verdict_file = VerdictFile(config.cache_dir, config.loras)
        self._verdicts = Verdicts(self._verdict_file.read())
        self._dirty = asyncio.Event()
        # One file at a time, and away from the loop: a huge file delays no session.
        self._loader = ThreadPoolExecutor(1, "loader")
        self._thumbnails = Thumbnails(
            config.loras,
            lambda: self._admission.known,
            self._dirty.set,
            rescan_seconds=config.rescan_seconds,
        )
        self._follower = DirectoryFollower(
            config.loras,
            self._admission,
            self._on_changes,
            self._thumbnails.look,
            rescan_seconds=config.rescan_seconds,
            poll=config.poll,
        )
        self._direct = config.inject == "direct"
        self._layout_hash = ""
        self._present: frozenset[str] = frozenset()
        self._waiting: dict[str, str] = {}
        """Name -> why the file is not used yet, as reported to the server."""

    async def run(self) -> None:
        """Run until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._follower.run())
                tasks.create_task(self._keep_attached())
                tasks.create_task(self._keep_verdicts())
                tasks.create_task(self._keep_thumbnails())
        finally:
            if self._verdicts.unsaved:
                self._verdict_file.write(to_json(self._verdicts.rows()))
            self._loader.shutdown(wait=False, cancel_futures=True)

    def _on_changes(self, changes: DirectoryChanges) -> None:
        if changes.warning:
            log.warning("%s: %s", self._config.loras, changes.warning)
        if changes.admitted or changes.removed or changes.renamed:
            self._thumbnails.look()
        for name in changes.removed:
            # A file that was renamed to this name and removed at once takes its old name along.
            for gone in (name, *self._queue.discard(name)):
                if gone not in self._admission.known:
                    self._dirty.set()
                    if self._catalog.remove(gone) is not None:
                        log.info('removed "%s"', gone)
        present = self._admission.present
        if self._present - present:
            # Also a file that went before it was admitted: the server keeps pending names.
            self._dirty.set()
        self._present = present
        waiting = {name: file.reason for name, file in self._admission.waiting.items()}
        for name in waiting.keys() - self._waiting.keys():
            log.info('waiting for "%s": %s', name, waiting[name])
        if waiting != self._waiting:
            self._dirty.set()
        self._waiting = waiting
        if not self._follower.started.is_set():
            return  # the first session replays what was there before
        for found in changes.admitted:
            origin = changes.renamed.get(found.name)
            replaces = () if origin is None else (origin, *self._queue.discard(origin))
            self._queue.change(found.name, replaces)

    async def _keep_verdicts(self) -> None:
        while True:
            await asyncio.sleep(_VERDICTS_SECONDS)
            if self._verdicts.unsaved:
                rows = self._verdicts.rows()
                # On the loader's thread, which is there already.
                await asyncio.get_running_loop().run_in_executor(
                    self._loader, lambda rows: self._verdict_file.write(to_json(rows)), rows
                )

    async def _keep_thumbnails(self) -> None:
        await self._follower.started.wait()
        await self._thumbnails.run()

    async def _keep_attached(self) -> None:
        await self._follower.started.wait()
        clock = asyncio.get_running_loop().time
        pause, said = _FIRST_PAUSE, ""
        while True:
            began = None
            try:
                async with attach(self._config.runtime_dir, self._direct) as session:
                    began, said = clock(), ""
                    await self._serve(session)
            except* DeviceUnavailableError as errors:
                self._direct = False
                problem, level = f"writing through host memory: {_text(errors)}", logging.WARNING
            except* (UntrustedServerError, VersionMismatchError) as errors:
                problem, pause, level = _text(errors), _MISMATCH_PAUSE, logging.ERROR
            except* AlreadyAttachedError as errors:
                problem, level = f"another LoRA manager is attached: {_text(errors)}", logging.ERROR
            except* SegmentError as errors:
                problem, level = _text(errors), logging.INFO
            except* Exception as errors:
                # A fault of this program must not end it either: adapters in the slots live on.
                log.exception("unforeseen failure in a session")
                problem, level = _text(errors), logging.ERROR
            if problem != said:
                where = "not attached" if began is None else "session lost"
                log.log(level, "%s: %s; trying again", where, problem)
                said = problem
            if began is not None and clock() - began > _LONGEST_PAUSE:
                pause = _FIRST_PAUSE
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _serve(self, session: SegmentSession) -> None:
        log.info(
            "attached to the server: up to %d adapters of rank %d resident, written %s, epoch %s",
            session.resident_limit, session.shape.layout.parameters.max_rank,
            "into the GPU's memory" if session.direct else "through host memory", session.epoch,
        )  # fmt: skip
        if session.shape.layout.hash != self._layout_hash:
            self._layout_hash = session.shape.layout.hash
            self._catalog.clear()
        await Publisher(
            session,
            admission=self._admission,
            catalog=self._catalog,
            queue=self._queue,
            dirty=self._dirty,
            loader=self._loader,
            max_file_bytes=self._config.max_file_bytes,
            verdicts=self._verdicts,
            thumbnails=self._thumbnails,
        ).run()


def _text(errors: BaseExceptionGroup[Exception]) -> str:
    """The first error's message."""
    first: BaseException = errors
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return str(first)
