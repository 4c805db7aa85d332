"""Certificates that follow their files, as the page and the gRPC server use them."""

from __future__ import annotations

import logging
import ssl
import subprocess
from pathlib import Path

import pytest
import trustme

from wuliart_process import certificates
from wuliart_process.certificates import CertificateError, CertificateFiles, WatchedCertificate


def write(files: CertificateFiles, issued: trustme.LeafCert, *, key: bool = True) -> None:
    files.chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    if key:
        files.key.write_bytes(issued.private_key_pem.bytes())


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CertificateFiles:
    monkeypatch.setattr(certificates, "READ_SECONDS", 0.0)
    return CertificateFiles(tmp_path / "cert.pem", tmp_path / "key.pem")


def test_a_renewed_pair_is_returned_once_and_half_a_pair_never(
    files: CertificateFiles, caplog: pytest.LogCaptureFixture
) -> None:
    authority = trustme.CA()
    first, second = (authority.issue_cert("localhost") for _ in range(2))
    write(files, first)
    watched = WatchedCertificate(files)
    assert watched.renewed() is None
    write(files, second, key=False)
    assert watched.renewed() is None and watched.renewed() is None
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert watched.current.key == first.private_key_pem.bytes()
    write(files, second)
    renewed = watched.renewed()
    assert renewed is not None and renewed.key == second.private_key_pem.bytes()
    assert watched.renewed() is None and watched.current is renewed


def test_files_that_change_after_their_check_do_not_reach_a_context(
    files: CertificateFiles,
) -> None:
    write(files, trustme.CA().issue_cert("localhost"))
    watched = WatchedCertificate(files)
    files.chain.unlink()
    files.key.write_text("half a key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    watched.current.load_into(context)  # what was checked, not what the files hold now


def test_an_encrypted_key_is_an_error_and_not_a_question_on_the_terminal(
    files: CertificateFiles,
) -> None:
    write(files, trustme.CA().issue_cert("localhost"))
    plain = files.key.rename(files.key.with_suffix(".plain"))
    command = ["openssl", "pkey", "-aes256", "-passout", "pass:x", "-in", plain, "-out", files.key]
    subprocess.run(command, check=True)
    with pytest.raises(CertificateError, match="encrypted; store it without a password"):
        WatchedCertificate(files)
