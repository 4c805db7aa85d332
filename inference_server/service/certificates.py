"""The server's certificate, as its files have it now: a renewed one needs no restart.

Owns the files' reading and the check that they belong together. A pair that cannot be used leaves
the one of before in place: without a certificate the server could not be reached at all.
"""

from __future__ import annotations

import logging
import os
import ssl
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc

from inference_server.errors import ServerError

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0
"""Between two readings of the files, if connections come that often."""

MAX_FILE_BYTES: Final = 1 << 20

_FileBytes = tuple[bytes, bytes, bytes | None]
"""Certificate chain, key, and the authority of clients."""


class CertificateError(ServerError):
    """A file cannot be used; the message says which and why."""


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Where the parts are, in PEM."""

    chain: Path
    key: Path
    authority: Path | None
    """Clients must have a certificate that this one has signed; None: they need none."""


class Certificates:
    """Credentials that follow their files. Safe to use from several threads.

    Raises:
        CertificateError: the files cannot be used.
    """

    def __init__(self, files: CertificateFiles) -> None:
        self._files = files
        self._lock = threading.Lock()
        self._used = _read(files)
        _check(files, self._used)
        self._complaint = ""
        self._next_look = time.monotonic() + LOOK_SECONDS

    def credentials(self) -> grpc.ServerCredentials:
        """For gRPC, which asks for a newer certificate at each connection."""
        require = self._files.authority is not None
        newer: Any = self._newer  # None stands for "none newer", which the type stubs do not know
        return grpc.dynamic_ssl_server_credentials(_configuration(self._used), newer, require)

    def _newer(self) -> grpc.ServerCertificateConfiguration | None:
        """The certificate if it has changed; called by gRPC on threads of its own."""
        with self._lock:
            now = time.monotonic()
            if now < self._next_look:
                return None
            self._next_look = now + LOOK_SECONDS
            try:
                found = _read(self._files)
                if found == self._used:
                    self._complaint = ""
                    return None
                _check(self._files, found)
            except CertificateError as error:
                if str(error) != self._complaint:
                    self._complaint = str(error)
                    log.error("the certificate of before is still used: %s", error)
                return None
            self._used, self._complaint = found, ""
        log.info("%s is read again", self._files.chain)
        return _configuration(found)


def _configuration(parts: _FileBytes) -> grpc.ServerCertificateConfiguration:
    chain, key, authority = parts
    return grpc.ssl_server_certificate_configuration([(key, chain)], authority)


def _read(files: CertificateFiles) -> _FileBytes:
    authority = None if files.authority is None else _pem(files.authority)
    return _pem(files.chain), _pem(files.key), authority


def _pem(path: Path) -> bytes:
    try:
        # Nonblocking: opening a pipe would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            data = file.read(MAX_FILE_BYTES) or b""
    except OSError as error:
        raise CertificateError(f"cannot read {path}: {error.strerror}") from None
    if b"-----BEGIN " not in data:
        raise CertificateError(f"{path} is not PEM: it has no line that begins with -----BEGIN")
    return data


def _check(files: CertificateFiles, parts: _FileBytes) -> None:
    """GRPC takes a chain with another's key, and then no connection works.

    Raises:
        CertificateError: the chain and the key do not belong together, or one cannot be read.
    """
    chain, key, authority = parts
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # OpenSSL reads the pair from a file only; this one is in memory, private to the process.
    pair = os.memfd_create("pair", os.MFD_CLOEXEC)
    try:
        with os.fdopen(pair, "wb", closefd=False) as file:
            file.write(key + b"\n" + chain)
        context.load_cert_chain(f"/proc/self/fd/{pair}", password=_no_password)
    except (OSError, ValueError) as error:
        raise CertificateError(
            f"{files.chain} and {files.key} cannot be used together: {_why(error)}"
        ) from None
    finally:
        os.close(pair)
    if authority is not None:
        try:
            context.load_verify_locations(cadata=authority.decode("ascii"))
        except (OSError, ValueError) as error:
            raise CertificateError(f"{files.authority} cannot be used: {_why(error)}") from None


def _no_password() -> str:
    # OpenSSL would ask for it on the terminal.
    raise ValueError("the key has a password; it must have none")


def _why(error: Exception) -> str:
    return getattr(error, "reason", None) or str(error)
