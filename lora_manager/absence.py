"""Known files that a scan does not list: deleted, or gone with a mount that comes back."""

from __future__ import annotations

from collections.abc import Mapping

from lora_manager.directory import Scan, covers
from lora_manager.hints import Hints
from lora_manager.lora_file import LoraFile


class Absence:
    """Decides which absent files are gone.

    A directory that is empty all at once may be an unmounted volume: the adapters of its files are
    kept until another file appears, or events say that the files were deleted.

    Args:
        quiet_seconds: how long a single file must be missing.
    """

    def __init__(self, quiet_seconds: float) -> None:
        self._quiet = quiet_seconds
        self._missing: dict[str, float] = {}
        """Name -> since when; files that may come back."""
        self._root: tuple[int, int] | None = None
        self._warned = False

    @property
    def started(self) -> bool:
        """True once the directory has been listed."""
        return self._root is not None

    @property
    def doubtful(self) -> bool:
        """True while files are missing that may come back."""
        return bool(self._missing)

    def gone(
        self, scan: Scan, absent: Mapping[str, LoraFile], hints: Hints, now: float
    ) -> dict[str, LoraFile]:
        """Returns those of the absent files that are gone for certain."""
        gone = {n: f for n, f in absent.items() if covers(hints.gone, f.relative)}
        doubtful = {n: f for n, f in absent.items() if n not in gone}
        self._missing = {n: self._missing.get(n, now) for n in doubtful}
        if scan.files:
            # The directory is not empty, so files that it does not list do not exist.
            gone |= doubtful
        elif self._root == scan.root and len(doubtful) == 1:
            gone |= {n: f for n, f in doubtful.items() if now - self._missing[n] >= self._quiet}
        if scan.files or not absent or self._root is None:
            self._root = scan.root
        return gone

    def forget(self, name: str) -> None:
        """Stops counting the file as missing."""
        self._missing.pop(name, None)

    def warning(self, scan: Scan, kept: set[str], now: float) -> str:
        """Returns why missing files are kept: once, and not before a second scan misses them."""
        if not kept:
            self._warned = False
            return ""
        alone = len(kept) == 1 and self._root == scan.root
        early = all(now - self._missing[name] < self._quiet for name in kept)
        if self._warned or early or alone:
            return ""
        self._warned = True
        return (
            f"the directory is suddenly empty, {len(kept)} file(s) gone without having been "
            "deleted: is it mounted? Their adapters are kept until a file appears"
        )
