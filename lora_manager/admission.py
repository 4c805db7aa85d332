"""Decides which files are finished and which are gone, from scans, signs, hints and a clock.

All inputs are handed in, so every rule can be tested without a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from lora_manager.absence import Absence
from lora_manager.directory import Scan, covers
from lora_manager.hints import Hints
from lora_manager.lora_file import LoraFile, precedence
from lora_manager.sidecars import expects_sidecar
from lora_manager.unfinished import Signs
from lora_manager.waiting import Waiting, WaitingFiles
from wuliart_lora.sidecar import SIDECAR_NAME


@dataclass(frozen=True, slots=True)
class DirectoryChanges:
    """Changes between two looks at the directory."""

    admitted: tuple[LoraFile, ...] = ()
    """New or changed files that are finished, oldest first."""
    removed: tuple[str, ...] = ()
    """Names that are gone and that no admitted file continues."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """New name -> the name that the file had until now."""
    warning: str = ""
    """Why missing files are kept; returned once."""


class Admission:
    """The admitted files and those that wait.

    Args:
        quiet_seconds: how long a file without events must stay equal.
        settle_seconds: the same for a file of which the system does not say whether a process has
            it open. At the start, such a file is used at once if it is older. None stands for
            `quiet_seconds`.
    """

    def __init__(self, quiet_seconds: float, settle_seconds: float | None = None) -> None:
        self.known: dict[str, LoraFile] = {}
        """Admitted files by name, as they were when they were admitted."""
        self._settle = quiet_seconds if settle_seconds is None else settle_seconds
        self._waiting = WaitingFiles(quiet_seconds, self._settle)
        self._absence = Absence(quiet_seconds)
        self._again: set[str] = set()

    @property
    def started(self) -> bool:
        """True once the directory has been listed."""
        return self._absence.started

    @property
    def present(self) -> frozenset[str]:
        """Names that have a file: admitted ones, and those that still wait."""
        return self._waiting.names.union(self.known)

    @property
    def waiting(self) -> dict[str, Waiting]:
        """By name, the files that have waited so long that users should see why."""
        return self._waiting.shown

    @property
    def unsettled(self) -> frozenset[str]:
        """Paths that have to be looked at again before they can be admitted."""
        again = {self.known[name].relative for name in self._again if name in self.known}
        return frozenset(again | {waiting.found.relative for waiting in self._waiting})

    @property
    def misses(self) -> bool:
        """True while files are missing that may come back."""
        return self._absence.doubtful

    def changed(self, files: Iterable[LoraFile]) -> list[LoraFile]:
        """Returns the files that may be admitted: `observe` needs the signs of each."""
        return [found for found in files if self._has_changed(found)]

    def retry(self, name: str) -> None:
        """Admits the file again when it next stays equal over two scans: reading it failed."""
        if name in self.known:
            self._again.add(name)

    def observe(
        self, scan: Scan, signs: Mapping[str, Signs], hints: Hints, *, now: float, wall_ns: int
    ) -> DirectoryChanges:
        """Takes in a full scan.

        Args:
            scan: the directory.
            signs: by path, at least those of all changed files in the scan.
            hints: of events before the scan.
            now: a monotonic clock, in seconds.
            wall_ns: the clock of file times, in nanoseconds.
        """
        absent = {
            name: found
            for name, found in self.known.items()
            if name not in scan.files and not scan.hides(found.relative)
        }
        first = not self.started
        gone = self._absence.gone(scan, absent, hints, now)
        admitted = []
        for name, found in scan.files.items():
            if not self._has_changed(found):
                self._waiting.drop(name)
                continue
            sign = signs.get(found.relative, Signs())
            at_once = self._has_arrived(found, sign, hints) or self._origin(found, gone) is not None
            if first:
                old = wall_ns - found.stamp.touched_ns > self._settle * 1e9
                at_once |= old or (sign.closed and not expects_sidecar(found))
            if self._waiting.is_finished(found, sign, now, at_once=at_once):
                admitted.append(found)
        self._waiting.keep(lambda found: found.name in scan.files or scan.hides(found.relative))
        warning = self._absence.warning(scan, absent.keys() - gone.keys(), now)
        return self._commit(admitted, gone, warning)

    def observe_hinted(
        self,
        seen: Mapping[str, LoraFile | None],
        signs: Mapping[str, Signs],
        hints: Hints,
        *,
        now: float,
    ) -> DirectoryChanges:
        """Takes in a look at single paths; None means that there is no file."""
        gone = {
            name: found
            for name, found in self.known.items()
            if seen.get(found.relative, found) is None and found.relative in hints.gone
        }
        self._waiting.keep(lambda found: seen.get(found.relative, found) is not None)
        # Of two files of one name the same one goes first as in a scan.
        files = sorted((f for f in seen.values() if f is not None), key=precedence, reverse=True)
        admitted = []
        for found in {f.name: f for f in files}.values():
            if not self._has_changed(found):
                self._waiting.drop(found.name)
                continue
            sign = signs.get(found.relative, Signs())
            at_once = self._has_arrived(found, sign, hints)
            if self._waiting.is_finished(found, sign, now, at_once=at_once):
                admitted.append(found)
        return self._commit(admitted, gone, "")

    def knows_elsewhere(self, found: LoraFile) -> bool:
        """Returns True if another path has this name or one that looks like it.

        Only a full scan can judge the file then.
        """
        others = [*self.known.values(), *(waiting.found for waiting in self._waiting)]
        return any(
            (f.name == found.name or f.look == found.look) and f.relative != found.relative
            for f in others
        )

    def _has_changed(self, found: LoraFile) -> bool:
        known = self.known.get(found.name)
        return (known is not found and known != found) or found.name in self._again

    def _has_arrived(self, found: LoraFile, sign: Signs, hints: Hints) -> bool:
        """Returns True if an event says that the file is there, with its sidecar if it has one.

        An event of its adapter_config.json says nothing about the file itself.
        """
        if found.sidecar is not None and _beside(found) in hints.arrived:
            known = self.known.get(found.name)
            if sign.closed or (known is not None and known.stamp == found.stamp):
                return True
        return covers(hints.arrived, found.relative) and not expects_sidecar(found)

    def _origin(self, found: LoraFile, gone: Mapping[str, LoraFile]) -> str | None:
        """Returns the name under which the same finished file was known until now."""
        return next(
            (name for name, old in gone.items() if old.stamp.may_be_renamed(found.stamp)), None
        )

    def _commit(
        self, admitted: list[LoraFile], gone: dict[str, LoraFile], warning: str
    ) -> DirectoryChanges:
        renamed: dict[str, str] = {}
        for found in admitted:
            origin = self._origin(found, gone)
            if origin is not None and origin not in renamed.values():
                renamed[found.name] = origin
        for name in gone:
            self.known.pop(name, None)
            self._absence.forget(name)
            self._again.discard(name)
        for found in admitted:
            self.known[found.name] = found
            self._waiting.drop(found.name)
            self._again.discard(found.name)
        admitted.sort(key=lambda found: found.stamp.mtime_ns)
        removed = tuple(
            sorted(n for n in gone if n not in renamed.values() and n not in self.known)
        )
        return DirectoryChanges(tuple(admitted), removed, renamed, warning)


def _beside(found: LoraFile) -> str:
    """Returns the path of the adapter_config.json beside the file."""
    folder, slash, _ = found.relative.rpartition("/")
    return f"{folder}{slash}{SIDECAR_NAME}"
