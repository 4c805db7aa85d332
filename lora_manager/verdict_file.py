"""Stores verdicts: one file for each watched directory, in the user's own cache folder.

Everything that goes wrong here costs time, not
correctness, so nothing is raised. Everything in the folder may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import secrets
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

MAX_BYTES: Final = 32 << 20
"""10,000 verdicts take 6 MB."""

MAX_FILES: Final = 16
"""Verdict files kept, one per watched directory; those written longest ago are deleted."""

_NAME: Final = re.compile(r"verdicts-[0-9a-f]{16}\.json(\.[0-9a-f]{8})?")


def default_cache_dir(environment: Mapping[str, str]) -> Path | None:
    """$XDG_CACHE_HOME/wuliart, else .cache/wuliart in a home of the user's own, else None."""
    base = environment.get("XDG_CACHE_HOME", "")
    if Path(base).is_absolute():
        return Path(base) / "wuliart"
    home = Path(environment.get("HOME", ""))
    with contextlib.suppress(OSError):
        if home.is_absolute() and home.stat().st_uid == os.geteuid():
            return home / ".cache/wuliart"
    return None


class VerdictFile:
    """The file of one watched directory.

    Args:
        folder: the cache folder; created when first written to. None: nothing is kept.
        watched: the directory.
    """

    def __init__(self, folder: Path | None, watched: Path) -> None:
        self._folder = folder
        name = hashlib.sha256(os.fsencode(os.path.realpath(watched))).hexdigest()[:16]
        self._name = f"verdicts-{name}.json"
        self._said = False

    def read(self) -> bytes:
        """Returns the bytes written last; empty if there are none or they cannot be trusted."""
        with self._opened(create=False) as folder:
            if folder is None:
                return b""
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            try:
                descriptor = os.open(self._name, flags, dir_fd=folder)
            except OSError:
                return b""
            with os.fdopen(descriptor, "rb") as file:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode) or not _is_own(status):
                    self._say(f"{self._name} in {self._folder} can be changed by other users")
                    return b""
                data = file.read(MAX_BYTES + 1)
            return data if len(data) <= MAX_BYTES else b""

    def write(self, data: bytes) -> None:
        """Replace the file in one step."""
        if not 0 < len(data) <= MAX_BYTES:
            return
        with self._opened(create=True) as folder:
            if folder is None:
                return
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            written = f"{self._name}.{secrets.token_hex(4)}"
            try:
                with os.fdopen(os.open(written, flags, 0o600, dir_fd=folder), "wb") as file:
                    file.write(data)
                os.replace(written, self._name, src_dir_fd=folder, dst_dir_fd=folder)
            except OSError as error:
                self._say(f"{self._folder} cannot be written to: {error.strerror}")
                with contextlib.suppress(OSError):
                    os.unlink(written, dir_fd=folder)
            self._tidy_up(folder)

    @contextlib.contextmanager
    def _opened(self, *, create: bool) -> Iterator[int | None]:
        """A descriptor of the folder; None if there is none that is the user's alone."""
        if self._folder is None:
            yield None
            return
        try:
            if create:
                self._folder.parent.mkdir(parents=True, exist_ok=True)
                self._folder.mkdir(mode=0o700, exist_ok=True)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(self._folder, flags)
        except OSError as error:
            if create:
                self._say(f"{self._folder} cannot be used: {error.strerror}")
            yield None
            return
        try:
            status = os.fstat(descriptor)
            if status.st_uid == os.geteuid() and not status.st_mode & 0o077:
                yield descriptor
                return
            self._say(f"{self._folder} is not this user's alone; remove it, or `chmod 700` it")
            yield None
        finally:
            os.close(descriptor)

    def _tidy_up(self, folder: int) -> None:
        """Removes the files written longest ago, also those of a write that was cut off."""
        with contextlib.suppress(OSError):
            kept = [name for name in os.listdir(folder) if _NAME.fullmatch(name)]
            kept.sort(key=lambda name: os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime)
            for name in kept[:-MAX_FILES]:
                os.unlink(name, dir_fd=folder)

    def _say(self, why: str) -> None:
        if not self._said:
            log.info("each start reads all files again: %s", why)
        self._said = True


def _is_own(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022
