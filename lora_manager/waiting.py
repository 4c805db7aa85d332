"""Files that are not admitted yet: how long each must stay equal, and the reason that users see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from lora_manager.lora_file import LoraFile
from lora_manager.unfinished import Signs

STILL_CHANGING: Final = "it is still changing; it is used once it stops changing"


@dataclass(frozen=True, slots=True)
class Waiting:
    """A file, or a new version of one, that is not admitted yet."""

    found: LoraFile
    reason: str
    """Explains why the file waits and how to resolve it."""
    first: float
    """When this version was first seen."""
    since: float
    """Since when the file has been as it is now."""
    long: bool = False
    """True if it waits for longer than a file that has just been put there."""


class WaitingFiles:
    """The files that wait, by name.

    Args:
        quiet_seconds: how long a file that no process has open must stay equal.
        settle_seconds: how long a file must stay equal of which the system does not say whether it
            is open (leases are granted on local file systems and own files only).
    """

    def __init__(self, quiet_seconds: float, settle_seconds: float) -> None:
        self._quiet = quiet_seconds
        self._settle = settle_seconds
        self._files: dict[str, Waiting] = {}

    def __iter__(self) -> Iterator[Waiting]:
        return iter(self._files.values())

    @property
    def names(self) -> frozenset[str]:
        """All names."""
        return frozenset(self._files)

    @property
    def shown(self) -> dict[str, Waiting]:
        """By name, the files that have waited so long that users should see why."""
        return {name: waiting for name, waiting in self._files.items() if waiting.long}

    def drop(self, name: str) -> None:
        """Forgets the file of that name, if it waits."""
        self._files.pop(name, None)

    def keep(self, is_there: Callable[[LoraFile], bool]) -> None:
        """Forgets the files that are not there any more."""
        self._files = {name: one for name, one in self._files.items() if is_there(one.found)}

    def is_finished(self, found: LoraFile, sign: Signs, now: float, *, at_once: bool) -> bool:
        """Returns True if the file may be admitted; otherwise notes what it waits for.

        A sign against the file holds for as long as it lasts. Without one the file is finished if
        it may be admitted at once, or has stayed equal for long enough.
        """
        if found.refusal:
            return True
        before = self._files.get(found.name)
        first = now if before is None else before.first
        since = before.since if before is not None and before.found == found else now
        stays = self._quiet if sign.closed else max(self._quiet, self._settle)
        if not sign.reason and (at_once or now - since >= stays):
            return True
        reason = sign.reason or (STILL_CHANGING if sign.closed else self._unsettled())
        self._files[found.name] = Waiting(
            found, reason, first, since, long=now - first >= self._quiet
        )
        return False

    def _unsettled(self) -> str:
        if self._settle <= self._quiet:
            return STILL_CHANGING
        return (
            "it has changed lately, and the system does not say whether a program has it open; it "
            f"is used once it stays unchanged for {self._settle:g} seconds"
        )
