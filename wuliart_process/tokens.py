"""Bearer tokens with names, from a file that is read again when it changes.

The inference server and the page read the same file.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import stat
import threading
import time
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

MIN_TOKEN_CHARACTERS: Final = 16
"""A shorter token could be guessed over the network; `openssl rand -hex 32` makes a good one."""

MAX_FILE_BYTES: Final = 1 << 20

_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_TOKEN: Final = re.compile(rf"[!-~]{{{MIN_TOKEN_CHARACTERS},1024}}")
_READ_SECONDS: Final = 0.5
"""Least time between two readings of the file."""


class TokenFileError(Exception):
    """The file cannot be used; the message says why, and never contains a token."""


class TokenFile:
    """The tokens of a file with a line `name token` each; empty lines and `#` comments are skipped.

    A name may have several tokens, so that tokens can be replaced without a gap. Each line ends
    with a newline; a last line without one is still being written, and is no token. The file must
    belong to the process's user or to root, and only its owner may be able to write it.

    While tokens are checked, the file is read at least once a second. Its content is compared, not
    its times or size, which can stay the same. While the file cannot be used, no token is valid.
    Safe to use from several threads.

    Raises:
        TokenFileError: the file cannot be used, or has no token in it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._content, self._open_to_all = _read(path)
        self._names, self._warnings = _parse(path, self._content)
        self._reported = ""
        self._log_warnings()
        self._next_reading = time.monotonic() + _READ_SECONDS

    def name_of(self, token: str) -> str | None:
        """Returns the name of a token; None if the token is not valid.

        Takes equally long for every wrong token.
        """
        given, found = _digest(token), None
        for digest, name in self._valid().items():
            if hmac.compare_digest(digest, given):
                found = name
        return found

    def _valid(self) -> dict[bytes, str]:
        """Returns names by digest, as the file has them now."""
        with self._lock:
            now = time.monotonic()
            if now >= self._next_reading:
                self._next_reading = now + _READ_SECONDS
                self._reread()
            return self._names

    def _reread(self) -> None:
        """Reads the file; without a usable one, no token is valid."""
        try:
            content, open_to_all = _read(self._path)
            if (content, open_to_all) == (self._content, self._open_to_all) and self._names:
                return
            self._names, self._warnings = _parse(self._path, content)
        except TokenFileError as error:
            self._names = {}
            if str(error) != self._reported:
                self._reported = str(error)
                log.error("no token is valid until this is fixed: %s", error)
            return
        self._content, self._open_to_all, self._reported = content, open_to_all, ""
        log.info("%s read again: %d tokens", self._path, len(self._names))
        self._log_warnings()

    def _log_warnings(self) -> None:
        for warning in self._warnings:
            log.warning("%s", warning)
        if self._open_to_all:
            log.warning("every user of this machine can read %s; chmod 600 it", self._path)


def bearer(header: str) -> str:
    """Returns the token of an Authorization header; empty if it has none."""
    scheme, _, token = header.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _digest(token: str) -> bytes:
    # Digests have one length, so comparing them reveals nothing about lengths.
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _read(path: Path) -> tuple[bytes, bool]:
    """Returns the file's content, and True if every user of the machine can read it.

    Raises:
        TokenFileError: the file cannot be read, or other users can write it.
    """
    try:
        # Non-blocking: opening a pipe would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            _check(path, status)
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise TokenFileError(f"cannot read {path}: {error.strerror}") from None
    if len(content) > MAX_FILE_BYTES:
        raise TokenFileError(f"{path} is larger than {MAX_FILE_BYTES} bytes")
    return content, bool(status.st_mode & stat.S_IROTH)


def _check(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise TokenFileError(f"{path} is not a regular file")
    if status.st_uid not in (0, os.geteuid()):
        raise TokenFileError(
            f"{path} belongs to user {status.st_uid}, who could add tokens; chown it to user "
            f"{os.geteuid()} or to root"
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        mode = stat.S_IMODE(status.st_mode)
        raise TokenFileError(
            f"users other than the owner can write {path} (mode {mode:04o}), and so add tokens; "
            "chmod 600 it"
        )


def _parse(path: Path, content: bytes) -> tuple[dict[bytes, str], list[str]]:
    """Returns names by digest, and warnings for the operator.

    Raises:
        TokenFileError: a line is malformed, or there is no token.
    """
    try:
        *lines, rest = content.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
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
    unfinished = rest.strip() and not rest.lstrip().startswith("#")
    warnings = [f"{path}, line {len(lines) + 1} does not end with a newline: it is no token"]
    if not names:
        why = f" ({warnings[0].removeprefix(f'{path}, ')})" if unfinished else ""
        raise TokenFileError(f"{path} has no token in it, so no client could call{why}")
    return names, warnings if unfinished else []
