"""The page's connections: idle ones, too many, no descriptors left, renewed certificates.

The tests run real processes of `wuliart-web`, without an inference server.
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
import trustme

from tests.support.fakes import DEADLINE
from tests.support.ports import free_port
from wuliart_process.bounded_listener import BoundedListener

DESCRIPTORS = 160
"""Descriptor limit of the page in these tests, so that few connections use them up."""


@contextmanager
def page(
    folder: Path, *arguments: str, stderr: int | None = None, descriptors: int = DESCRIPTORS
) -> Iterator[int]:
    """Runs a page and yields its port; its log is folder/log unless `stderr` is given."""
    port = free_port()
    # The hard limit too: the page raises the soft one.
    limited = f'ulimit -Sn {descriptors} && ulimit -Hn {descriptors} && exec "$@"'
    command = ["bash", "-c", limited, "page", sys.executable, "-m", "wuliart_web"]
    command += ["--port", str(port), "--server", f"unix:{folder}/none", *arguments]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log if stderr is None else stderr)
        try:
            eventually(lambda: connects(port), "the page listens")
            yield port
        finally:
            process.terminate()
            process.wait(DEADLINE)


def eventually(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def connects(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/viewer.js")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def is_closed(connection: socket.socket) -> bool:
    try:
        connection.setblocking(False)
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def test_more_connections_than_descriptors_cost_one_log_line(tmp_path: Path) -> None:
    with page(tmp_path) as port:
        eventually(lambda: answers(port), "the page answers")
        held = [socket.create_connection(("127.0.0.1", port), 5) for _ in range(400)]
        eventually(
            lambda: sum(map(is_closed, held)) >= 400 - DESCRIPTORS, "those too many are closed"
        )
        for connection in held:
            connection.close()
        eventually(lambda: answers(port), "the page answers again")
        # Again and again: still one line a minute.
        for _ in range(600):
            socket.create_connection(("127.0.0.1", port), 5).close()
        eventually(lambda: answers(port), "the page answers again")
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log and "out of system resource" not in log
    assert log.count("closed at once") == 1 and len(log) < 20_000, log[-2000:]


def test_without_a_descriptor_left_one_is_closed_and_the_next_is_served() -> None:
    """The connection limit does not count descriptors that other code has open."""
    with BoundedListener("127.0.0.1", 0, 100) as listener:
        listener.listen(8)
        listener.setblocking(False)
        address = ("127.0.0.1", listener.port)
        first, second = (socket.create_connection(address, 5) for _ in range(2))
        soft, hard = resource_limits()
        lowest = os.dup(0)
        os.close(lowest)
        try:
            set_limit(lowest, hard)
            with pytest.raises(BlockingIOError):
                listener.accept()  # both are closed, with the descriptor kept for that
        finally:
            set_limit(soft, hard)
        for connection in (first, second):
            connection.settimeout(5)
            assert is_closed(connection) or connection.recv(1) == b""
            connection.close()
        with socket.create_connection(address, 5):
            accepted, _ = listener.accept()
            assert listener.open == 1
            accepted.close()
            assert listener.open == 0


def resource_limits() -> tuple[int, int]:
    import resource

    return resource.getrlimit(resource.RLIMIT_NOFILE)


def set_limit(soft: int, hard: int) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


SLOW = """
import sys
from wuliart_web import serving
serving.HEAD_SECONDS = 0.5
from wuliart_web.__main__ import main
main(sys.argv[1:])
"""


def test_a_connection_without_a_request_is_closed(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-c", SLOW, "--port", str(port), "--server", f"unix:{tmp_path}/none"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: answers(port), "the page answers")
        whole = b"GET /viewer.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
        for sent, then in ((b"", b""), (whole[:20], b""), (whole, whole[:20])):
            with socket.create_connection(("127.0.0.1", port), 30) as connection:
                connection.sendall(sent)
                if sent == whole:
                    assert b"200 OK" in connection.recv(1 << 16)
                    connection.sendall(then)
                while connection.recv(1 << 16):
                    pass  # ends when the page closes it; the socket's timeout fails the test
        # A stream that is open longer than that goes on.
        with socket.create_connection(("127.0.0.1", port), 30) as connection:
            connection.sendall(b"GET /adapters/news HTTP/1.1\r\nHost: localhost\r\n\r\n")
            time.sleep(1.5)
            assert b"200 OK" in connection.recv(1 << 16)
            assert not is_closed(connection)
    finally:
        process.terminate()
        process.wait(DEADLINE)


def test_a_page_whose_log_is_not_read_keeps_serving(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    try:
        with page(tmp_path, stderr=writing, descriptors=1024) as port:
            eventually(lambda: answers(port), "the page answers")
            # 100 bytes of log each; a pipe holds 65,536.
            for _ in range(1200):
                assert answers(port)
    finally:
        os.close(reading)
        os.close(writing)


def test_a_renewed_certificate_is_used_and_a_broken_one_is_not(tmp_path: Path) -> None:
    authority = trustme.CA()
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"

    def renew(*, whole: bool = True) -> None:
        issued = authority.issue_cert("127.0.0.1")
        cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        if whole:
            key.write_bytes(issued.private_key_pem.bytes())

    def served() -> bytes:
        context = ssl.create_default_context()
        authority.configure_trust(context)
        with (
            socket.create_connection(("127.0.0.1", port), 10) as connection,
            context.wrap_socket(connection, server_hostname="127.0.0.1") as tls,
        ):
            return tls.getpeercert(binary_form=True) or b""

    renew()
    with page(tmp_path, "--tls-cert", str(cert), "--tls-key", str(key)) as port:
        first = served()
        renew(whole=False)
        eventually(
            lambda: "previous certificate stays in use" in (tmp_path / "log").read_text(),
            "an error is logged",
        )
        assert served() == first
        renew()
        eventually(lambda: served() != first, "the new certificate is served")


STUCK = """
import sys
from wuliart_web import serving
serving._UNREAD_SECONDS = 0.5
from wuliart_web.__main__ import main
main(sys.argv[1:])
"""


def test_a_connection_whose_response_is_not_read_is_closed(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-c", STUCK, "--port", str(port), "--server", f"unix:{tmp_path}/no"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: answers(port), "the page answers")
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", port))
            # 46 kB of page, of which a few fit into the kernel's buffers.
            request = b"GET / HTTP/1.1\r\nHost: localhost\r\nCookie: x=" + b"y" * 8000 + b"\r\n\r\n"
            closed = False
            for _ in range(200):
                try:
                    connection.sendall(request)
                except OSError:
                    closed = True
                    break
                time.sleep(0.02)
            assert closed, "the page keeps a connection that reads nothing"
        assert answers(port)
    finally:
        process.terminate()
        process.wait(DEADLINE)


def test_one_byte_chunks_do_not_hold_up_the_page(tmp_path: Path) -> None:
    with page(tmp_path) as port:
        eventually(lambda: answers(port), "the page answers")
        head = b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", port), 10) as connection:
                connection.sendall(head + b"1\r\nx\r\n" * 40_000)
                with suppress(ConnectionError):
                    assert b" 411 " in connection.recv(1 << 16)
        began = time.process_time()
        assert answers(port) and time.process_time() - began < 5
    assert "Traceback" not in (tmp_path / "log").read_text()
