"""Other processes that take a server's address or change its certificate files."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

import wuliart_client
from inference_server.errors import ServerError
from inference_server.network import Network
from tests.support.fakes import DEADLINE
from tests.support.harness import running_server
from wuliart_client import TLS, Client
from wuliart_process import certificates


async def test_a_second_server_does_not_take_the_address_of_a_first(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/s"
    async with running_server(network=Network(address)) as first:
        for same in (address, f"unix://{tmp_path}/s"):
            with pytest.raises(ServerError, match=r"another process listens on .*/s"):
                async with running_server(network=Network(same)):
                    pass
        assert (await asyncio.to_thread(draw, address)) == 5
        assert first.stages
    async with running_server(network=Network(address)):
        assert (await asyncio.to_thread(draw, address)) == 5


def draw(address: str, tls: TLS | None = None) -> int:
    with Client(address, tls=tls) as client:
        return client.generate_image("a cat", seed=5, timeout=DEADLINE).seed


def test_what_a_dead_server_has_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    start_and_stop(f"unix:{path}")
    path.write_text("kept")
    with pytest.raises(ServerError, match="not a socket"):
        start_and_stop(f"unix:{path}")
    assert path.read_text() == "kept"
    path.rename(tmp_path / "other")
    path.symlink_to(tmp_path / "other")
    with pytest.raises(ServerError, match="not a socket"):
        start_and_stop(f"unix:{path}")
    with pytest.raises(ServerError, match="cannot open folder"):
        start_and_stop(f"unix:{tmp_path}/no/s")


def start_and_stop(address: str) -> None:
    async def run() -> None:
        async with running_server(network=Network(address)):
            assert await asyncio.to_thread(draw, address) == 5

    asyncio.run(run())


def test_a_socket_whose_backlog_is_full_is_not_dead(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(tmp_path / "s"))
        busy.listen(0)
        waiting.connect(str(tmp_path / "s"))
        with pytest.raises(ServerError, match="another process listens"):
            start_and_stop(f"unix:{tmp_path}/s")


def test_of_servers_that_start_together_one_wins(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.support.contender", f"unix:{tmp_path}/s"]
    contenders = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    try:
        for contender in contenders:
            assert contender.stdin is not None
            contender.stdin.close()
        said = [c.stdout.readline().strip() for c in contenders if c.stdout is not None]
        assert said.count("serves") == 1, said
        assert sum("another process listens" in line for line in said) == 2, said
    finally:
        for contender in contenders:
            contender.kill()
            contender.wait()


# -- certificates ------------------------------------------------------------------------------


class Files:
    """A server's certificate and key on disk."""

    def __init__(self, folder: Path) -> None:
        self.cert, self.key, self.ca = folder / "c.pem", folder / "k.pem", folder / "ca.pem"

    def issue(self, authority: trustme.CA) -> trustme.LeafCert:
        issued = authority.issue_cert("localhost")
        self.ca.write_bytes(authority.cert_pem.bytes())
        return issued

    def write_cert(self, issued: trustme.LeafCert) -> None:
        self.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))

    def write_key(self, issued: trustme.LeafCert) -> None:
        self.key.write_bytes(issued.private_key_pem.bytes())

    def write(self, issued: trustme.LeafCert) -> None:
        self.write_cert(issued)
        self.write_key(issued)

    def network(self) -> Network:
        return Network("localhost:0", tls_cert=self.cert, tls_key=self.key)


def shown(port: int) -> str:
    """The certificate that a new connection is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("localhost", port), DEADLINE) as plain,
        context.wrap_socket(plain) as secure,
    ):
        return ssl.DER_cert_to_PEM_cert(secure.getpeercert(binary_form=True) or b"")


def same(pem: str, issued: trustme.LeafCert) -> bool:
    own = issued.cert_chain_pems[0].bytes().decode()
    return pem.split() == own.split()


async def test_a_renewed_certificate_is_shown_and_a_broken_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(certificates, "READ_SECONDS", 0.0)
    files, authority = Files(tmp_path), trustme.CA()
    first, second = (files.issue(authority) for _ in range(2))
    files.write(first)
    async with running_server(network=files.network()) as server:

        async def now() -> str:
            return await asyncio.to_thread(shown, server.public.port)

        assert same(await now(), first)
        tls = TLS(files.ca)
        where = f"localhost:{server.public.port}"
        assert await asyncio.to_thread(draw, where, tls) == 5
        breaks: list[Callable[[], object]] = [
            lambda: files.write_cert(second),  # its key is not there yet
            lambda: files.cert.write_bytes(files.cert.read_bytes()[:-100]),
            lambda: files.cert.write_bytes(b""),
            lambda: files.cert.unlink(),
            lambda: files.key.unlink(),
        ]
        for broken in breaks:
            files.write(first)
            assert same(await now(), first)
            caplog.clear()
            broken()
            for _ in range(3):
                assert same(await now(), first)
            lines = [r for r in caplog.records if r.name == certificates.__name__]
            assert [r.levelname for r in lines] == ["ERROR"]
        files.write(second)
        assert same(await now(), second)
        assert await asyncio.to_thread(draw, where, tls) == 5


async def test_a_key_that_does_not_match_is_an_error_at_the_start(tmp_path: Path) -> None:
    files, authority = Files(tmp_path), trustme.CA()
    first, second = (files.issue(authority) for _ in range(2))
    files.write_cert(first)
    files.write_key(second)
    with pytest.raises(ServerError, match=r"cannot be used together: .*MISMATCH"):
        async with running_server(network=files.network()):
            pass


def test_connections_that_are_open_keep_their_certificate(tmp_path: Path) -> None:
    """A renewal takes nothing away from a client that generates."""
    files, authority = Files(tmp_path), trustme.CA()
    files.write(files.issue(authority))

    async def run() -> None:
        async with running_server(network=files.network()) as server:
            where = f"localhost:{server.public.port}"
            async with wuliart_client.AsyncClient(where, tls=TLS(files.ca)) as client:
                assert (await client.generate_image("a cat", seed=1)).seed == 1
                files.write(files.issue(trustme.CA()))
                assert (await client.generate_image("a cat", seed=2)).seed == 2

    asyncio.run(run())
