"""Another user of the machine offers the LoRA manager a server.

The attacker is a process of another user that listens on one of the two sockets, or on both. The
manager must not send it a byte, and must say in one line what is wrong and what to do.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest

from lora_manager.segment_errors import SessionLostError, UntrustedServerError
from lora_manager.server_connection import connect_to_server
from tests.support.fake_segment_server import FakeSegmentServer, ManagerProcess, lora_bytes
from tests.support.fakes import until
from tests.support.other_user import OTHER_UID, needs_root

BOTH = ("control.sock", "descriptors.sock")

LISTEN = """
import os, selectors, socket, sys
folder, mode, user = sys.argv[1], int(sys.argv[2], 8), int(sys.argv[3])
os.setgroups([])
os.setgid(user)
os.setuid(user)
os.umask(0)
if not os.path.exists(folder):
    os.mkdir(folder, mode)
watch = selectors.DefaultSelector()
for name in sys.argv[4:]:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(f"{folder}/{name}")
    listener.listen(64)
    watch.register(listener, selectors.EVENT_READ, "listener")
watch.register(sys.stdin, selectors.EVENT_READ, "end")
print("listening", flush=True)
received = 0
while True:
    for key, _ in watch.select():
        if key.data == "end":
            print(received, flush=True)
            sys.exit()
        elif key.data == "listener":
            watch.register(key.fileobj.accept()[0], selectors.EVENT_READ, "connection")
        else:
            data = key.fileobj.recv(4096)
            received += len(data)
            if not data:
                watch.unregister(key.fileobj)
"""
"""Listens in a folder, which it makes if it is missing; in the end prints how many bytes came."""


class Attacker:
    """A process of another user that listens in `folder`."""

    def __init__(self, folder: Path, *names: str, mode: int = 0o700, user: int = OTHER_UID) -> None:
        command = [sys.executable, "-c", LISTEN, str(folder), oct(mode), str(user), *names]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "listening\n"

    def received(self) -> int:
        """Ends it; returns how many bytes were sent to it."""
        out, _ = self._process.communicate()
        return int(out)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder like /tmp: all users may write there."""
    with tempfile.TemporaryDirectory(prefix="wuliart-attack-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o1777)
        yield folder


@asynccontextmanager
async def own_listener(path: Path) -> AsyncIterator[None]:
    server = await asyncio.start_unix_server(lambda *_: None, path)
    async with server:
        yield


@needs_root
@pytest.mark.parametrize("mode", [0o700, 0o777])
async def test_the_manager_sends_nothing_to_another_users_folder(
    shared: Path, tmp_path: Path, mode: int
) -> None:
    """The default folder in /tmp can be squatted, and a setting can name the wrong one."""
    (tmp_path / "loras").mkdir(mode=0o700)
    (tmp_path / "loras/secret.safetensors").write_bytes(lora_bytes(1))
    attacker = Attacker(shared / "run", *BOTH, mode=mode)
    async with ManagerProcess(tmp_path / "loras", shared / "run") as manager:
        await until(lambda: manager.said("not attached"))
        await asyncio.sleep(0.5)
        assert manager.said(
            f"belongs to user {OTHER_UID}, not to user 0; name another with --runtime"
        )
    assert attacker.received() == 0
    assert not any("Traceback" in line for line in manager.log)


@needs_root
async def test_the_manager_sends_nothing_to_another_users_listener_in_its_own_folder(
    shared: Path, tmp_path: Path
) -> None:
    """The folder was open to all for a while; what listens there stays."""
    (tmp_path / "loras").mkdir()
    run = shared / "run"
    run.mkdir()
    run.chmod(0o777)
    attacker = Attacker(run, *BOTH)
    async with ManagerProcess(tmp_path / "loras", run) as manager:
        await until(lambda: manager.said("lets other users in (mode 0777)"))
    run.chmod(0o700)
    async with ManagerProcess(tmp_path / "loras", run) as manager:
        await until(lambda: manager.said(f"of user {OTHER_UID}, not of user 0; stop that process"))
        await asyncio.sleep(0.5)
    assert attacker.received() == 0


@needs_root
@pytest.mark.parametrize("stolen", BOTH)
async def test_each_of_the_two_sockets_is_checked(shared: Path, stolen: str) -> None:
    run = shared / "run"
    run.mkdir()
    run.chmod(0o777)
    attacker = Attacker(run, stolen)
    run.chmod(0o700)
    (own,) = set(BOTH) - {stolen}
    async with own_listener(run / own):
        with pytest.raises(UntrustedServerError, match=f"{stolen} is served by process .* of user"):
            await connect_to_server(run)
    assert attacker.received() == 0


@needs_root
async def test_a_folder_that_another_user_can_replace_is_refused(shared: Path) -> None:
    above = shared / "above"
    (above / "run").mkdir(mode=0o700, parents=True)
    os.chown(above, OTHER_UID, OTHER_UID)
    with pytest.raises(
        UntrustedServerError, match=f"above, which holds .*to user {OTHER_UID}, who"
    ):
        await connect_to_server(above / "run")


@needs_root
async def test_another_users_link_on_the_way_is_refused(shared: Path) -> None:
    (shared / "real/run").mkdir(mode=0o700, parents=True)
    for name, target in (("link", "real"), ("run", "real/run")):
        (shared / name).symlink_to(target)
        os.chown(shared / name, OTHER_UID, OTHER_UID, follow_symlinks=False)
    with pytest.raises(UntrustedServerError, match=f"link, on the way .* of user {OTHER_UID}"):
        await connect_to_server(shared / "link/run")
    with pytest.raises(UntrustedServerError, match="is a symbolic link"):
        await connect_to_server(shared / "run")


async def test_a_server_that_accepts_no_connections_is_named(tmp_path: Path) -> None:
    path = str(tmp_path / "control.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener, ExitStack() as waiting:
        listener.bind(path)
        listener.listen(0)
        with suppress(BlockingIOError):
            while True:
                other = waiting.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                other.setblocking(False)
                other.connect(path)
        with pytest.raises(SessionLostError, match=r"takes no connections on control\.sock"):
            await connect_to_server(tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda a: setattr(a.layout, "blocks", 2**32 - 1), "blocks must be from 1 to"),
        (lambda a: setattr(a.layout, "width", 2**32 - 1), "width must be from 1 to"),
        (lambda a: setattr(a.layout, "dtype", "int4"), "slot dtype must be one of"),
        (lambda a: setattr(a, "segment_bytes", 2**64 - 1), "does not hold 2 adapters"),
        (lambda a: setattr(a, "segment_bytes", 0), "does not hold 2 adapters"),
        (lambda a: setattr(a, "resident_limit", 2**32 - 1), "does not hold 4294967295 adapters"),
        (lambda a: setattr(a, "gpu_uuid", b"\x01" * 16), "was not requested"),
        (lambda a: setattr(a, "conditioning", b"123"), "conditioning is not float32"),
    ],
)  # fmt: skip
async def test_absurd_numbers_of_the_server_are_refused_before_they_cost_anything(
    tmp_path: Path, change: object, says: str
) -> None:
    (tmp_path / "run").mkdir(mode=0o700)
    server = FakeSegmentServer(tmp_path / "run")
    await server.start()
    server.change_attached = change  # type: ignore[assignment]
    try:
        async with ManagerProcess(tmp_path / "loras", server.runtime_dir) as manager:
            await server.until(lambda: manager.said(says))
            assert not any("Traceback" in line for line in manager.log)
    finally:
        await server.stop()


async def test_a_name_that_the_server_wants_loaded_is_one_of_the_folder_or_nothing(
    tmp_path: Path,
) -> None:
    (tmp_path / "run").mkdir(mode=0o700)
    (tmp_path / "loras").mkdir()
    (tmp_path / "secret.safetensors").write_bytes(lora_bytes(1))
    server = FakeSegmentServer(tmp_path / "run")
    await server.start()
    try:
        async with ManagerProcess(tmp_path / "loras", server.runtime_dir) as manager:
            await server.until_judged()
            names = ("../secret", str(tmp_path / "secret"), "", "x" * 100_000, "\ud7ff\u202e")
            for name in names:
                server.promote(name)
            (tmp_path / "loras/ink.safetensors").write_bytes(lora_bytes(2))
            await server.until(lambda: "ink" in server.resident)
            assert set(server.catalog) == {"ink"}
            assert not any("Traceback" in line for line in manager.log)
    finally:
        await server.stop()
