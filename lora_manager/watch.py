"""Turns file system events into hints for the event loop.

Events may get lost; the periodic scan finds what they miss.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.inotify import InotifyObserver

from lora_manager.directory import is_candidate
from lora_manager.hints import HintBox, Hints
from lora_manager.previews import is_preview
from lora_manager.sidecars import finished_by
from lora_manager.unclosed_writes import UnclosedWrites
from wuliart_lora.sidecar import SIDECAR_NAME

log = logging.getLogger(__name__)

# watchdog registers a new subfolder twice and warns about it, which is harmless.
warnings.filterwarnings("ignore", message="Callback with id", category=RuntimeWarning)


class DirectoryWatch:
    """An inotify watch over a folder and all folders below it, symbolic links not followed."""

    def __init__(self, root: Path, box: HintBox, on_preview: Callable[[], None]) -> None:
        self._root = root
        self._box = box
        self._on_preview = on_preview
        self._observer: InotifyObserver | None = None
        self.unclosed = UnclosedWrites()
        """Files that an open writer may still change, according to events."""

    @property
    def running(self) -> bool:
        """True while events arrive."""
        return self._observer is not None

    def start(self) -> bool:
        """Starts anew; returns False if the system does not allow it."""
        self.stop()
        loop = asyncio.get_running_loop()
        handler = _EventHandler(
            os.path.realpath(self._root), self._box, self._on_preview, self.unclosed, loop
        )
        try:
            # Without full events a file that is moved in from elsewhere counts as created.
            observer = InotifyObserver(generate_full_events=True)
            observer.schedule(
                handler,
                handler.root,
                recursive=True,
                event_filter=[
                    FileClosedEvent, FileMovedEvent, FileDeletedEvent, FileCreatedEvent,
                    FileModifiedEvent, DirMovedEvent, DirDeletedEvent, DirCreatedEvent,
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
        """Stops; events under way may still arrive in the box."""
        if self._observer is not None:
            self._observer.stop()
            self._observer = None
        self.unclosed.clear()


class _EventHandler(FileSystemEventHandler):
    """Receives events in watchdog's thread."""

    def __init__(
        self,
        root: str,
        box: HintBox,
        on_preview: Callable[[], None],
        unclosed: UnclosedWrites,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.root = root
        self._box = box
        self._on_preview = on_preview
        self._unclosed = unclosed
        self._loop = loop

    def on_any_event(self, event: FileSystemEvent) -> None:
        self._follow_writes(event)
        if isinstance(event, FileModifiedEvent):
            return  # frequent, and no sign that the file is finished
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
        if any(map(is_preview, touched)):
            self._call(self._on_preview)
        if isinstance(event, FileCreatedEvent):
            # Not a sign that it is finished, but a symbolic or hard link is never closed.
            put = self._box.folder
            relevant = any(is_candidate(path) or _is_sidecar(path) for path in touched)
        elif event.is_directory:
            # Hidden folders, too: symbolic links may lead through them.
            put, relevant = self._box.folder, True
        elif any(map(_is_sidecar, touched)):
            # Which file it belongs to depends on the other files in the folder.
            put, relevant = self._box.folder, True
        else:
            # `..data` of a Kubernetes volume is a link that is renamed: a file to inotify.
            linked = any(Path(self.root, path).is_dir() for path in target)
            put = self._box.folder if linked else self._box.file
            relevant = linked or any(map(is_candidate, touched))
        if relevant:
            self._call(put, Hints(arrived, gone))

    def _call(self, function: Callable[..., None], *arguments: Hints) -> None:
        # The loop is closed only when the process ends.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)

    def _follow_writes(self, event: FileSystemEvent) -> None:
        if event.is_synthetic:
            return  # watchdog's own, for each file of a folder that was moved
        path = os.fsdecode(event.src_path)
        if isinstance(event, FileModifiedEvent):
            self._unclosed.write(path)
        elif isinstance(event, FileClosedEvent):
            self._unclosed.close(path)
        elif isinstance(event, (FileMovedEvent, DirMovedEvent)):
            self._unclosed.move(path, os.fsdecode(event.dest_path))
        elif isinstance(event, (FileDeletedEvent, DirDeletedEvent)):
            self._unclosed.move(path, "")

    def _relative(self, path: bytes | str) -> frozenset[str]:
        """Returns the path below the root; nothing for the root, whose end confirms nothing."""
        text = os.fsdecode(path)
        below = text.removeprefix(self.root + "/")
        return frozenset() if not text or below == text else frozenset({below})


def _is_sidecar(relative: str) -> bool:
    return relative.rpartition("/")[2] == SIDECAR_NAME
