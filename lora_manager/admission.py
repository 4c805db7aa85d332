"""Which files are finished and which are gone: scans and hints in, changes out.

Owns what is known of the directory over time. Pure: clocks, scans and hints are handed in, so
every rule can be tested without a file. Knows nothing of contents, slots or the server.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from lora_manager.directory import Scan, covers
from lora_manager.found import Found, precedence

STARTUP_AGE_SECONDS: Final = 2.0
"""A file that has not been touched for this long when the manager starts is finished, also where
nothing tells whether it is open."""


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
class Changes:
    """What a look at the directory changed."""

    admitted: tuple[Found, ...] = ()
    """New or changed files that are finished, oldest first."""
    removed: tuple[str, ...] = ()
    """Names that are gone and that no admitted file goes on with."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """New name -> the name that it had until now and that is gone."""
    warning: str = ""
    """Why files that are missing are kept; said once."""


class Admission:
    """The state machine. `quiet_seconds` is how long a file without events must stay equal."""

    def __init__(self, quiet_seconds: float) -> None:
        self.known: dict[str, Found] = {}
        """Admitted files by name, as they were when they were admitted."""
        self._quiet = quiet_seconds
        self._waiting: dict[str, tuple[Found, float]] = {}
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

    def retry(self, name: str) -> None:
        """Admit the file again when it next stays equal over two scans: it could not be read."""
        if name in self.known:
            self._again.add(name)

    def observe(self, scan: Scan, hints: Hints, *, now: float, wall_ns: int) -> Changes:
        """Take in a full scan.

        `now` is a monotonic clock in seconds, `wall_ns` the clock of file times.
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
            old = first and wall_ns - found.stamp.mtime_ns > STARTUP_AGE_SECONDS * 1e9
            if (
                found.refusal
                or old
                or covers(hints.arrived, found.relative)
                or self._origin(found, gone) is not None
                or self._settled(found, now)
            ):
                admitted.append(found)
        self._waiting = {
            name: (found, since)
            for name, (found, since) in self._waiting.items()
            if name in scan.files or scan.hides(found.relative)
        }
        return self._commit(admitted, gone, self._warning(scan, set(absent) - set(gone), now))

    def observe_hinted(self, seen: Mapping[str, Found | None], hints: Hints) -> Changes:
        """Take in a look at the hinted paths alone; None says that nothing is there."""
        gone = {
            name: found
            for name, found in self.known.items()
            if seen.get(found.relative, found) is None and found.relative in hints.gone
        }
        self._waiting = {
            name: (found, since)
            for name, (found, since) in self._waiting.items()
            if seen.get(found.relative, found) is not None
        }
        # Of two files of one name the same one goes first as in a scan.
        files = sorted((f for f in seen.values() if f is not None), key=precedence, reverse=True)
        admitted = [
            found
            for found in {f.name: f for f in files}.values()
            if (found.refusal or found.relative in hints.arrived) and self._is_news(found)
        ]
        return self._commit(admitted, gone, "")

    def knows_elsewhere(self, found: Found) -> bool:
        """Returns True if another path has this name or one that looks like it.

        Only a full scan can judge the file then.
        """
        others = [*self.known.values(), *(waiting for waiting, _ in self._waiting.values())]
        return any(
            (f.name == found.name or f.look == found.look) and f.relative != found.relative
            for f in others
        )

    def _is_news(self, found: Found) -> bool:
        return found.name in self._again or self.known.get(found.name) != found

    def _gone(
        self, scan: Scan, absent: Mapping[str, Found], hints: Hints, now: float
    ) -> dict[str, Found]:
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

    def _settled(self, found: Found, now: float) -> bool:
        before, since = self._waiting.get(found.name, (None, now))
        if before != found:
            self._waiting[found.name] = (found, now)
            return False
        return now - since >= self._quiet

    def _origin(self, found: Found, gone: Mapping[str, Found]) -> str | None:
        """The name under which the same finished file was known until now."""
        return next(
            (name for name, old in gone.items() if old.stamp.may_be_renamed(found.stamp)), None
        )

    def _commit(self, admitted: list[Found], gone: dict[str, Found], warning: str) -> Changes:
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
        return Changes(tuple(admitted), removed, renamed, warning)
