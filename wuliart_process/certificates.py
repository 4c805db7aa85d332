"""A server's TLS certificate, read again when its files change: renewal needs no restart.

The files are read into memory and checked there, so the certificate and key that were checked are
the ones used, however the files change meanwhile. Files that cannot be used leave the previous
certificate in place: without one, no client could connect.
"""

from __future__ import annotations

import logging
import os
import ssl
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

READ_SECONDS: Final = 1.0
"""Least time between two readings of the files."""

MAX_FILE_BYTES: Final = 1 << 20


class CertificateError(Exception):
    """A certificate file cannot be used; the message names the file and the reason."""


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Paths of a certificate's parts, in PEM."""

    chain: Path
    key: Path
    authority: Path | None = None
    """Clients must present a certificate signed by this one; None: they need none."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """The content of the files, in PEM."""

    chain: bytes
    key: bytes
    authority: bytes | None

    def load_into(self, context: ssl.SSLContext) -> None:
        """Makes `context` use this chain and key for new connections.

        Raises:
            OSError: the chain and the key do not belong together, or are not PEM (`ssl.SSLError`).
            ValueError: the key is encrypted.
        """
        # OpenSSL reads the pair from a file only; this one is in memory, private to the process.
        pair = os.memfd_create("pair", os.MFD_CLOEXEC)
        try:
            with os.fdopen(pair, "wb", closefd=False) as file:
                file.write(self.key + b"\n" + self.chain)
            context.load_cert_chain(f"/proc/self/fd/{pair}", password=_no_password)
        finally:
            os.close(pair)


class WatchedCertificate:
    """A certificate that follows its files. Safe to use from several threads.

    Raises:
        CertificateError: the files cannot be used.
    """

    def __init__(self, files: CertificateFiles) -> None:
        self._files = files
        self._lock = threading.Lock()
        self._current = _read(files)
        _check(files, self._current)
        self._reported = ""
        """The problem that was logged last, so that each is logged once."""
        self._next_reading = time.monotonic() + READ_SECONDS

    @property
    def current(self) -> Certificate:
        """The certificate in use."""
        return self._current

    def renewed(self) -> Certificate | None:
        """Reads the files, at most once in `READ_SECONDS`.

        Returns:
            The certificate if it has changed and can be used; None otherwise.
        """
        with self._lock:
            now = time.monotonic()
            if now < self._next_reading:
                return None
            self._next_reading = now + READ_SECONDS
            try:
                found = _read(self._files)
                if found == self._current:
                    self._reported = ""
                    return None
                _check(self._files, found)
            except CertificateError as error:
                if str(error) != self._reported:
                    self._reported = str(error)
                    log.error("the previous certificate stays in use: %s", error)
                return None
            self._current, self._reported = found, ""
        log.info("new connections get the renewed certificate in %s", self._files.chain)
        return found


def _read(files: CertificateFiles) -> Certificate:
    authority = None if files.authority is None else _read_pem(files.authority)
    return Certificate(_read_pem(files.chain), _read_pem(files.key), authority)


def _read_pem(path: Path) -> bytes:
    try:
        # Non-blocking: opening a pipe would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            data = file.read(MAX_FILE_BYTES) or b""
    except OSError as error:
        raise CertificateError(f"cannot read {path}: {error.strerror}") from None
    if b"-----BEGIN " not in data:
        raise CertificateError(f"{path} is not PEM: it has no line that begins with -----BEGIN")
    return data


def _check(files: CertificateFiles, certificate: Certificate) -> None:
    """Loads the parts into an OpenSSL context of their own.

    gRPC accepts a chain with another chain's key, and then every handshake fails.

    Raises:
        CertificateError: the chain and the key do not belong together, or one cannot be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        certificate.load_into(context)
    except (OSError, ValueError) as error:
        raise CertificateError(
            f"{files.chain} and {files.key} cannot be used together: {_reason(error)}"
        ) from None
    if certificate.authority is not None:
        try:
            context.load_verify_locations(cadata=certificate.authority.decode("ascii"))
        except (OSError, ValueError) as error:
            raise CertificateError(f"{files.authority} cannot be used: {_reason(error)}") from None


def _no_password() -> str:
    # Without this, OpenSSL would ask for the password on the terminal.
    raise ValueError("the key is encrypted; store it without a password")


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or str(error)
