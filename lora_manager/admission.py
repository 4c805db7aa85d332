"""Which files are finished and which are gone: scans, signs and hints in, changes out.

Owns what is known of the directory over time. Pure: clocks, scans, signs and hints are handed in,
so every rule can be tested without a file. Knows nothing of contents, slots or the server.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from lora_manager.candidates import LoraFile, precedence
from lora_manager.directory import Scan, covers
from lora_manager.sidecars import expects_sidecar
from lora_manager.unfinished import Signs
from wuliart_lora.sidecar import SIDECAR_NAME

STARTUP_AGE_SECONDS: Final = 2.0
"""A file that has not been touched for this long when the manager starts is finished, also where
nothing tells whether it is open."""

STILL_CHANGING: Final = "it is still changing; it is used when it stays as it is"


@dataclass(frozen=True, slots=True)
class Hints:
    """What events said since the last look; paths below the root, of files or of folders."""

    arrived: frozenset[str] = frozenset()
    """Closed after writing, or moved in."""
    gone: frozenset[str] = frozenset()
    """Deleted, or moved away."""

    def __or__(self, other: Hints) -> Hints:
        return Hints(self.arrived | other.arrived, self.gone | other.gone)


@dataclass(frozen=True, slots=True)
class DirectoryChanges:
    """What a look at the directory changed."""

    admitted: tuple[LoraFile, ...] = ()
    """New or changed files that are finished, oldest first."""
    removed: tuple[str, ...] = ()
    """Names that are gone and that no admitted file goes on with."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """New name -> the name that it had until now and that is gone."""
    warning: str = ""
    """Why files that are missing are kept; said once."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A file, or a new version of one, that is not admitted yet."""

    found: LoraFile
    reason: str
    """What it waits for, and what to do."""
    first: float
    """When it was first seen as news."""
    since: float
    """How long it has been as it is now."""
    long: bool = False
    """True if it waits for longer than a file that was just put there."""


class Admission:
    """The state machine. `quiet_seconds` is how long a file without events must stay equal."""

    def __init__(self, quiet_seconds: float) -> None:
        self.known: dict[str, LoraFile] = {}
        """Admitted files by name, as they were when they were admitted."""
        self._quiet = quiet_seconds
        self._waiting: dict[str, Waiting] = {}
        self._again: set[str] = set()
        self._missing: dict[str, float] = {}
        self._root: tuple[int, int] | None = None
        self._warned = False

    @property
    def started(self) -> bool:
        """Whether the directory has been listed once."""
        return self._root is not None

    @property
    def present(self) -> frozenset[str]:
        """Names that have a file: admitted ones, and those that are still waited for."""
        return frozenset(self.known.keys() | self._waiting.keys())

    @property
    def waiting(self) -> dict[str, Waiting]:
        """By name, what has been waited for so long that people should see why."""
        return {name: waiting for name, waiting in self._waiting.items() if waiting.long}

    @property
    def unsettled(self) -> frozenset[str]:
        """Paths that have to be looked at again before they can be admitted."""
        again = {self.known[name].relative for name in self._again if name in self.known}
        return frozenset(again | {waiting.found.relative for waiting in self._waiting.values()})

    @property
    def misses(self) -> bool:
        """True while files are missing that may come back."""
        return bool(self._missing)

    def news(self, files: Iterable[LoraFile]) -> list[LoraFile]:
        """Those of the files that may be admitted: `observe` needs the signs of each."""
        return [found for found in files if self._is_news(found)]

    def retry(self, name: str) -> None:
        """Admit the file again when it next stays equal over two scans: it could not be read."""
        if name in self.known:
            self._again.add(name)

    def observe(
        self, scan: Scan, signs: Mapping[str, Signs], hints: Hints, *, now: float, wall_ns: int
    ) -> DirectoryChanges:
        """Take in a full scan.

        `signs` are by path, at least of all news in it. `now` is a monotonic clock in seconds,
        `wall_ns` the clock of file times.
        """
        absent = {
            name: found
            for name, found in self.known.items()
            if name not in scan.files and not scan.hides(found.relative)
        }
        gone = self._gone(scan, absent, hints, now)
        first = not self.started
        if scan.files or not absent or self._root is None:
            self._root = scan.root

        admitted = []
        for name, found in scan.files.items():
            if not self._is_news(found):
                self._waiting.pop(name, None)
                continue
            sign = signs.get(found.relative, Signs())
            old = first and wall_ns - found.stamp.mtime_ns > STARTUP_AGE_SECONDS * 1e9
            told = self._arrived(found, sign, hints) or (
                first and sign.closed and not expects_sidecar(found)
            )
            moved = self._origin(found, gone) is not None
            if self._is_finished(found, sign, now, at_once=old or told or moved):
                admitted.append(found)
        self._waiting = {
            name: waiting
            for name, waiting in self._waiting.items()
            if name in scan.files or scan.hides(waiting.found.relative)
        }
        return self._commit(admitted, gone, self._warning(scan, set(absent) - set(gone), now))

    def observe_hinted(
        self,
        seen: Mapping[str, LoraFile | None],
        signs: Mapping[str, Signs],
        hints: Hints,
        *,
        now: float,
    ) -> DirectoryChanges:
        """Take in a look at some paths alone; None says that nothing is there."""
        gone = {
            name: found
            for name, found in self.known.items()
            if seen.get(found.relative, found) is None and found.relative in hints.gone
        }
        self._waiting = {
            name: waiting
            for name, waiting in self._waiting.items()
            if seen.get(waiting.found.relative, waiting.found) is not None
        }
        # Of two files of one name the same one goes first as in a scan.
        files = sorted((f for f in seen.values() if f is not None), key=precedence, reverse=True)
        admitted = []
        for found in {f.name: f for f in files}.values():
            if not self._is_news(found):
                self._waiting.pop(found.name, None)
                continue
            sign = signs.get(found.relative, Signs())
            if self._is_finished(found, sign, now, at_once=self._arrived(found, sign, hints)):
                admitted.append(found)
        return self._commit(admitted, gone, "")

    def knows_elsewhere(self, found: LoraFile) -> bool:
        """Returns True if another path has this name or one that looks like it.

        Only a full scan can judge the file then.
        """
        others = [*self.known.values(), *(waiting.found for waiting in self._waiting.values())]
        return any(
            (f.name == found.name or f.look == found.look) and f.relative != found.relative
            for f in others
        )

    def _is_news(self, found: LoraFile) -> bool:
        known = self.known.get(found.name)
        return (known is not found and known != found) or found.name in self._again

    def _gone(
        self, scan: Scan, absent: Mapping[str, LoraFile], hints: Hints, now: float
    ) -> dict[str, LoraFile]:
        """Those of the absent that are gone for certain."""
        gone = {n: f for n, f in absent.items() if covers(hints.gone, f.relative)}
        doubtful = {n: f for n, f in absent.items() if n not in gone}
        self._missing = {n: self._missing.get(n, now) for n in doubtful}
        if scan.files:
            # The directory is alive: what it does not list is not there.
            return gone | doubtful
        if self._root == scan.root and len(doubtful) == 1:
            gone |= {n: f for n, f in doubtful.items() if now - self._missing[n] >= self._quiet}
        return gone

    def _warning(self, scan: Scan, kept: set[str], now: float) -> str:
        """Why missing files are kept: once, and not before a second scan misses them too."""
        if not kept:
            self._warned = False
            return ""
        alone = len(kept) == 1 and self._root == scan.root
        early = all(now - self._missing[name] < self._quiet for name in kept)
        if self._warned or early or alone:
            return ""
        self._warned = True
        return (
            f"the directory is empty all at once, {len(kept)} file(s) gone without having been "
            "deleted: is it mounted? Their adapters are kept until a file appears"
        )

    def _arrived(self, found: LoraFile, sign: Signs, hints: Hints) -> bool:
        """Returns True if an event says that the file has been put there, and all of it is there.

        An event of its adapter_config.json says nothing of the file itself.
        """
        if found.sidecar is not None and _beside(found) in hints.arrived:
            known = self.known.get(found.name)
            if sign.closed or (known is not None and known.stamp == found.stamp):
                return True
        return covers(hints.arrived, found.relative) and not expects_sidecar(found)

    def _is_finished(self, found: LoraFile, sign: Signs, now: float, *, at_once: bool) -> bool:
        """Returns True if the file may be admitted; else notes what it waits for.

        A sign against it holds for as long as it is there. Without one the file is finished if it
        may be admitted at once, or has been as it is now for long enough.
        """
        if found.refusal:
            return True
        before = self._waiting.get(found.name)
        first = now if before is None else before.first
        since = before.since if before is not None and before.found == found else now
        if not sign.reason and (at_once or now - since >= self._quiet):
            return True
        self._waiting[found.name] = Waiting(
            found, sign.reason or STILL_CHANGING, first, since, long=now - first >= self._quiet
        )
        return False

    def _origin(self, found: LoraFile, gone: Mapping[str, LoraFile]) -> str | None:
        """The name under which the same finished file was known until now."""
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
            self._missing.pop(name, None)
            self._again.discard(name)
        for found in admitted:
            self.known[found.name] = found
            self._waiting.pop(found.name, None)
            self._again.discard(found.name)
        admitted.sort(key=lambda found: found.stamp.mtime_ns)
        removed = tuple(
            sorted(n for n in gone if n not in renamed.values() and n not in self.known)
        )
        return DirectoryChanges(tuple(admitted), removed, renamed, warning)


def _beside(found: LoraFile) -> str:
    """Path of the adapter_config.json beside the file."""
    folder, slash, _ = found.relative.rpartition("/")
    return f"{folder}{slash}{SIDECAR_NAME}"
