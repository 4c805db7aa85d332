"""Progress of one image: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from wuliart_client._events import Completed, Event, Queued, Started, Step


class ImageProgress(Protocol):
    """Shows the events of one image; a context manager around them."""

    def show(self, event: Event) -> None:
        """Show an event."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


def progress_on(console: Console) -> ImageProgress:
    """Returns a bar for a terminal, lines for anything else."""
    return BarProgress(console) if console.is_interactive else PlainProgress(console)


def _describe(event: Event) -> str:
    match event:
        case Queued(position):
            return f"Queued ({position} ahead)"
        case Started():
            return "Generating"
        case Step(step, total_steps):
            return f"Step {step}/{total_steps}"
        case Completed():
            return "Done"


class PlainProgress:
    """A line for each event."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def show(self, event: Event) -> None:
        """Write the event's line; `Started` says nothing that the steps do not."""
        if not isinstance(event, Started):
            self._console.out(_describe(event), highlight=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Lines need no cleanup."""


class BarProgress:
    """A bar with the last event before it and the time behind it."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TimeElapsedColumn(),
            console=console,
        )
        self._task: TaskID | None = None

    def show(self, event: Event) -> None:
        """Move the bar."""
        if self._task is None:
            return
        self._progress.update(self._task, description=_describe(event))
        if isinstance(event, Started):
            self._progress.update(self._task, total=event.steps)
        elif isinstance(event, Step):
            self._progress.update(self._task, completed=event.step)

    def __enter__(self) -> Self:
        self._task = self._progress.add_task("Connecting", total=None)
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()
