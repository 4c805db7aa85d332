"""File system events as hints for the event loop.

Owns the watchdog observer and the thread boundary. Knows nothing of what a hint leads to; that
events get lost is expected, a periodic scan is the truth.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import warnings
from pathlib import Path

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.inotify import InotifyObserver

from lora_manager.admission import Hints
from lora_manager.directory import is_candidate
from lora_manager.sidecars import finished_by
from wuliart_lora.sidecar import SIDECAR_NAME

log = logging.getLogger(__name__)

# watchdog registers a new subfolder twice and says so; it does no harm.
warnings.filterwarnings("ignore", message="Callback with id", category=RuntimeWarning)


class HintBox:
    """Hints collected on the event loop until somebody takes them."""

    def __init__(self) -> None:
        self._files = Hints()
        self._folders = Hints()
        self._rescan = False
        self._filled = asyncio.Event()

    def file(self, hints: Hints) -> None:
        """Single files arrived or went."""
        self._files |= hints
        self._filled.set()

    def folder(self, hints: Hints) -> None:
        """Something happened that a look at single files cannot judge."""
        self._folders |= hints
        self._rescan = True
        self._filled.set()

    async def wait(self, seconds: float) -> None:
        """Return when there is a hint, or after so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                await self._filled.wait()

    def take_files(self) -> Hints:
        """The hints about single files; they are gone from the box."""
        hints, self._files = self._files, Hints()
        self._filled.clear()
        return hints

    def take_all(self) -> Hints:
        """Everything, for a full scan."""
        hints = self.take_files() | self._folders
        self._folders, self._rescan = Hints(), False
        return hints

    @property
    def rescan(self) -> bool:
        """Whether a full scan is called for."""
        return self._rescan


class DirectoryWatch:
    """An inotify watch over a folder and all folders below it, symbolic links not followed."""

    def __init__(self, root: Path, box: HintBox) -> None:
        self._root = root
        self._box = box
        self._observer: InotifyObserver | None = None

    @property
    def running(self) -> bool:
        """True while the system tells of changes."""
        return self._observer is not None

    def start(self) -> bool:
        """Begin; returns whether the system allowed it."""
        self.stop()
        loop = asyncio.get_running_loop()
        handler = _EventHandler(os.path.realpath(self._root), self._box, loop)
        try:
            # Full events: a file moved in from elsewhere is otherwise told as merely created.
            observer = InotifyObserver(generate_full_events=True)
            observer.schedule(
                handler,
                handler.root,
                recursive=True,
                event_filter=[
                    FileClosedEvent, FileMovedEvent, FileDeletedEvent, FileCreatedEvent,
                    DirMovedEvent, DirDeletedEvent, DirCreatedEvent,
                ],
            )  # fmt: skip
            observer.start()
        except OSError as error:
            log.warning(
                "no file system events (%s); changes are seen by rescans alone", error.strerror
            )
            return False
        self._observer = observer
        return True

    def stop(self) -> None:
        """End; events under way may still arrive in the box."""
        if self._observer is not None:
            self._observer.stop()
            self._observer = None


class _EventHandler(FileSystemEventHandler):
    """Runs in watchdog's thread."""

    def __init__(self, root: str, box: HintBox, loop: asyncio.AbstractEventLoop) -> None:
        self.root = root
        self._box = box
        self._loop = loop

    def on_any_event(self, event: FileSystemEvent) -> None:
        source, target = self._relative(event.src_path), self._relative(event.dest_path)
        gone: frozenset[str] = frozenset()
        arrived: frozenset[str] = frozenset()
        if isinstance(event, (FileMovedEvent, DirMovedEvent)):
            gone, arrived = source, target
        elif isinstance(event, (FileDeletedEvent, DirDeletedEvent)):
            gone = source
        elif isinstance(event, FileClosedEvent):
            arrived = source
        arrived |= frozenset(filter(None, map(finished_by, gone)))
        touched = source | target | arrived
        if isinstance(event, FileCreatedEvent):
            # No sign that it is finished; but a symbolic or hard link is never closed.
            put = self._box.folder
            relevant = any(is_candidate(path) or _is_sidecar(path) for path in touched)
        elif event.is_directory:
            # Also those of hidden names: symbolic links may lead through them.
            put, relevant = self._box.folder, True
        elif any(map(_is_sidecar, touched)):
            # To which file it belongs depends on what else lies in the folder.
            put, relevant = self._box.folder, True
        else:
            # `..data` of a Kubernetes volume is a link that is renamed: a file to inotify.
            linked = any(Path(self.root, path).is_dir() for path in target)
            put = self._box.folder if linked else self._box.file
            relevant = linked or any(map(is_candidate, touched))
        if relevant:
            # The loop is closed only when the process is about to end.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(put, Hints(arrived, gone))

    def _relative(self, path: bytes | str) -> frozenset[str]:
        """The path below the root; nothing for the root itself, whose end confirms nothing."""
        text = os.fsdecode(path)
        below = text.removeprefix(self.root + "/")
        return frozenset() if not text or below == text else frozenset({below})


def _is_sidecar(relative: str) -> bool:
    return relative.rpartition("/")[2] == SIDECAR_NAME
