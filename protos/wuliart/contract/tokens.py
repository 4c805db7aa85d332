"""Who may call: bearer tokens with names, from a file that is read again when it changes.

Owns the file's format and the comparison. Knows nothing of gRPC or HTTP; server and web page read
the same file.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import threading
import time
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

MIN_TOKEN_CHARACTERS: Final = 16
"""A shorter one could be guessed over the network; `openssl rand -hex 32` makes a good one."""

_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_TOKEN: Final = re.compile(rf"[!-~]{{{MIN_TOKEN_CHARACTERS},1024}}")
_LOOK_SECONDS: Final = 1.0
"""Between two looks at the file's times."""


class TokenFileError(Exception):
    """The file cannot be used; the message says why, and never contains a token."""


class TokenFile:
    """The tokens of a file: a line each, `name token`; empty lines and `#` comments are skipped.

    A name may have several tokens, so that they can be changed one after another. Safe to use from
    several threads.

    Raises:
        TokenFileError: it cannot be read, or a line is none, or there is no token at all.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._stamp, self._names = _read(path)
        self._next_look = time.monotonic() + _LOOK_SECONDS

    def name_of(self, token: str) -> str | None:
        """Whose token it is; None if nobody's. Takes equally long for every wrong token."""
        self._look()
        given, found = _digest(token), None
        for digest, name in self._names.items():
            if hmac.compare_digest(digest, given):
                found = name
        return found

    def _look(self) -> None:
        """Reads the file again if it has changed; one that cannot be used changes nothing."""
        with self._lock:
            now = time.monotonic()
            if now < self._next_look:
                return
            self._next_look = now + _LOOK_SECONDS
            try:
                if _stamp(os.stat(self._path)) == self._stamp:  # noqa: PTH116
                    return
                self._stamp, self._names = _read(self._path)
            except (OSError, TokenFileError) as error:
                log.error("%s is not read again, the tokens of before hold: %s", self._path, error)
                return
            log.info("%s read again: %d tokens", self._path, len(self._names))


def bearer(header: str) -> str:
    """The token of an Authorization header; empty if it has none."""
    scheme, _, token = header.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _digest(token: str) -> bytes:
    # Of one length, whatever is compared: lengths tell nothing then.
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _read(path: Path) -> tuple[tuple[int, ...], dict[bytes, str]]:
    try:
        with path.open(encoding="utf-8") as file:
            stamp, lines = _stamp(os.fstat(file.fileno())), file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TokenFileError(f"cannot read {path}: {error}") from None
    names: dict[bytes, str] = {}
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2 or not _NAME.fullmatch(words[0]):
            raise TokenFileError(
                f"{path}, line {number}: write a name of letters, digits, '.', '_' and '-', then "
                "its token"
            )
        if not _TOKEN.fullmatch(words[1]):
            raise TokenFileError(
                f"{path}, line {number}: the token of {words[0]} must have {MIN_TOKEN_CHARACTERS} "
                "to 1024 visible ASCII characters; make one with: openssl rand -hex 32"
            )
        names[_digest(words[1])] = words[0]
    if not names:
        raise TokenFileError(f"{path} has no token in it, so nobody could call")
    return stamp, names
