"""Standard error that is not read, closed, full or flooded: the service continues."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
import trustme

from wuliart.v1.image_generation_pb2 import GenerateImageRequest
from wuliart.v1.image_generation_pb2_grpc import ImageGenerationServiceStub
from wuliart_process.log_handler import MAX_WAITING
from wuliart_process.log_repeats import ALLOWED

PATIENCE = 30.0
CALLS = MAX_WAITING + 300
"""Each leaves a line of about 100 bytes."""


@contextmanager
def program(
    code: str, stderr: int | None = None, **options: object
) -> Iterator[subprocess.Popen[str]]:
    """A Python program of its own; its standard output is read by the test."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE, stdin=subprocess.PIPE, stderr=stderr, text=True, **options,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for file in (process.stdout, process.stdin):
            assert file is not None
            file.close()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def small_pipe() -> tuple[int, int]:
    """A pipe that holds 4 KiB; the usual 64 KiB take longer to fill."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4_096)
    return reading, writing


def read_available(descriptor: int, until: str) -> str:
    """Reads a pipe until a text has come."""
    text, deadline = "", time.monotonic() + PATIENCE
    os.set_blocking(descriptor, False)
    while until not in text:
        assert time.monotonic() < deadline, text[-500:]
        try:
            text += os.read(descriptor, 1 << 16).decode()
        except BlockingIOError:
            time.sleep(0.02)
    return text


def test_calls_are_answered_while_standard_error_is_not_read() -> None:
    reading, writing = small_pipe()
    code = "import runpy; runpy.run_module('tests.support.logging_server', run_name='__main__')"
    with program(code, writing) as process, grpc.insecure_channel(said(process)) as channel:
        os.close(writing)
        stub = ImageGenerationServiceStub(channel)
        wrong = GenerateImageRequest(prompt="a lighthouse", steps=9)

        def refuse() -> None:
            with pytest.raises(grpc.RpcError) as failure:
                list(stub.GenerateImage(wrong, timeout=PATIENCE))
            assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT

        for _ in range(CALLS):
            refuse()
        text = read_available(reading, "log records were dropped: stderr was not read")
        dropped = re.search(r"(\d+) log records were dropped", text)
        assert dropped is not None and 0 < int(dropped[1]) < CALLS
        refuse()
        read_available(reading, "refused: INVALID_REQUEST")
        # It ends although its last lines cannot be written.
        for _ in range(100):
            refuse()
        process.terminate()
        assert process.wait(PATIENCE) == 0
    os.close(reading)


OTHER_WAYS = """
    import logging, sys, threading, traceback, warnings
    from wuliart_process.logs import send_to_stderr

    class Unruly:
        def __del__(self):
            raise ValueError("x" * 1_000)

    def fail():
        raise ValueError("x" * 1_000)

    {setup}
    send_to_stderr("INFO")
    logging.getLogger("uvicorn.access").info("GET /")
    for number in range(500):
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
        Unruly()
        warnings.warn_explicit("x" * 1_000, UserWarning, "x", number)
        print("x" * 1_000, file=sys.stderr, flush=True)
        try:
            fail()
        except ValueError:
            traceback.print_exc()
            logging.getLogger("x").exception("failed %d", number)
    print("done", flush=True)
    sys.stdin.readline()
    {ending}
"""


@pytest.mark.parametrize("ending", ["pass", "sys.exit('said last')", "fail()"])
def test_no_way_of_writing_waits_for_a_reader(ending: str) -> None:
    reading, writing = small_pipe()
    with program(OTHER_WAYS.format(setup="", ending=ending), writing) as process:
        os.close(writing)
        assert said(process) == "done"
        process.communicate("\n", timeout=PATIENCE)
        assert process.returncode == (0 if ending == "pass" else 1)
    os.close(reading)


@pytest.mark.parametrize("gone", ["closed", "full", "broken", "terminal"])
def test_a_standard_error_that_cannot_be_written_ends_nothing(gone: str) -> None:
    setup, stderr, keep = "", None, []
    if gone == "full":
        stderr = os.open("/dev/full", os.O_WRONLY)
    elif gone == "broken":
        reading, stderr = os.pipe()
        os.close(reading)
    elif gone == "terminal":
        # Stopped with Ctrl-S, and made non-blocking by another program.
        reading, stderr = os.openpty()
        os.set_blocking(stderr, False)
        keep.append(reading)
    else:
        # As `2>&-` leaves it: the number 2 is the program's next file.
        setup = "import os; os.close(2); sys.stderr = None; mine = open('/dev/null', 'w')"
    with program(OTHER_WAYS.format(setup=setup, ending="pass"), stderr) as process:
        assert said(process) == "done"
        process.communicate("\n", timeout=PATIENCE)
        assert process.returncode == 0
    for descriptor in [stderr, *keep]:
        if descriptor is not None:
            os.close(descriptor)


def test_a_full_disk_is_reported_with_the_count(tmp_path: Path) -> None:
    code = """
        import logging, resource, signal, sys
        from wuliart_process.logs import send_to_stderr

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        send_to_stderr("INFO")
        log = logging.getLogger("x")
        for limit, lines in ((2_000, 100), (-1, 1)):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, -1))
            for _ in range(lines):
                log.info("x" * 100)
            logging.getLogger().handlers[0].flush()
    """
    log = tmp_path / "log"
    with log.open("w") as file, program(code, file.fileno()) as process:
        assert process.wait(PATIENCE) == 0
    assert re.search(
        r"\d\d log records were dropped: stderr could not be written: File too large\n$",
        log.read_text(),
    )


def test_running_out_of_descriptors_is_a_few_lines(tmp_path: Path) -> None:
    """Asyncio has a traceback for each connection in the backlog, thousands a second."""
    code = """
        import asyncio, resource
        from wuliart_process.logs import send_to_stderr

        async def main():
            server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", backlog=500)
            resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
            print(server.sockets[0].getsockname()[1], flush=True)
            await asyncio.sleep(60)

        send_to_stderr("INFO")
        asyncio.run(main())
    """
    warning = "socket.accept() out of system resource"
    log = tmp_path / "log"
    with log.open("w") as file, program(code, file.fileno()) as process:
        address = ("127.0.0.1", int(said(process)))
        connections = [socket.create_connection(address) for _ in range(100)]
        deadline = time.monotonic() + PATIENCE
        while log.read_text().count(warning) < ALLOWED:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(2)  # asyncio tries again every second
        for connection in connections:
            connection.close()
    assert log.read_text().count(warning) == ALLOWED
    assert log.stat().st_size < 100_000


def test_an_untrusted_client_cannot_make_grpc_write_to_the_log(tmp_path: Path) -> None:
    """Its core has a line for each handshake that fails, past `logging` and `sys.stderr`."""
    authority = trustme.CA()
    cert = authority.issue_cert("localhost")
    cert.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    cert.private_key_pem.write_to_path(tmp_path / "key.pem")
    code = f"""
        import inference_server.__main__
        import pathlib, sys, grpc
        from concurrent.futures import ThreadPoolExecutor

        folder = pathlib.Path({str(tmp_path)!r})
        pair = tuple((folder / name).read_bytes() for name in ("key.pem", "cert.pem"))
        server = grpc.server(ThreadPoolExecutor())
        print(server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair])))
        server.start()
        print("started", flush=True)
        sys.stdin.readline()
    """
    log = tmp_path / "log"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GRPC_")}
    with log.open("w") as file, program(code, file.fileno(), env=environment) as process:
        address = ("127.0.0.1", int(said(process)))
        assert said(process) == "started"
        for _ in range(20):
            with socket.create_connection(address) as stranger:
                stranger.sendall(b"GET / HTTP/1.0\r\n\r\n")
                stranger.settimeout(PATIENCE)
                try:
                    while stranger.recv(1 << 16):
                        pass
                except ConnectionResetError:
                    pass
    assert log.read_text() == ""
