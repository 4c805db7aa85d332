"""The manager follows files of another user, as in the container: it gets no leases on them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_segment_server import lora_bytes
from tests.support.other_user import OTHER_UID, needs_root

pytestmark = needs_root

RESCAN_SECONDS = 0.3
LOOKS = 12 * RESCAN_SECONDS
"""Seconds of more equal looks than any file has to stay equal for."""


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def folder() -> Iterator[Path]:
    """Other users cannot enter pytest's own temporary folders."""
    path = Path(tempfile.mkdtemp(prefix="wuliart-other-user-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


class ManagerAsNobody:
    """The process of tests/support/manager_as.py, and what it printed last."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.state: dict[str, Any] = {"reports": False, "resident": {}, "waiting": {}}
        self.resident_hashes: set[str] = set()

    async def read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.state = json.loads(line)
            self.resident_hashes |= set(self.state["resident"].values())

    async def until(self, condition: Callable[[dict[str, Any]], object]) -> None:
        try:
            async with asyncio.timeout(30):
                while not condition(self.state):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"did not happen: {self.state}") from None


@asynccontextmanager
async def manager_as_other_user(folder: Path) -> AsyncIterator[ManagerAsNobody]:
    runtime = folder / "run"
    runtime.mkdir(mode=0o700)
    os.chown(runtime, OTHER_UID, OTHER_UID)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.manager_as", str(OTHER_UID), str(folder / "loras"),
        str(runtime), str(RESCAN_SECONDS),
        stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    manager = ManagerAsNobody(process)
    reading = asyncio.create_task(manager.read())
    try:
        await manager.until(lambda state: state["reports"])
        yield manager
    finally:
        process.kill()
        await process.wait()
        await reading


async def test_a_file_that_is_overwritten_in_place_is_never_read_half(folder: Path) -> None:
    (folder / "loras").mkdir()
    path = folder / "loras/ink.safetensors"
    old, new = lora_bytes(1), lora_bytes(2)
    path.write_bytes(old)
    async with manager_as_other_user(folder) as manager:
        await manager.until(lambda state: "ink" in state["resident"])
        with path.open("r+b", buffering=0) as file:
            file.write(new[: len(new) // 2])
            await manager.until(lambda state: "ink" in state["waiting"])
            await asyncio.sleep(LOOKS)
            assert manager.state["resident"] == {"ink": sha(old)}
            assert "has written to it and not closed it yet" in manager.state["waiting"]["ink"]
            file.write(new[len(new) // 2 :])
        await manager.until(lambda state: state["resident"]["ink"] == sha(new))
        await manager.until(lambda state: not state["waiting"])
        assert manager.resident_hashes == {sha(old), sha(new)}


async def test_a_new_file_is_used_when_it_is_closed_also_under_another_name(folder: Path) -> None:
    (folder / "loras/sub").mkdir(parents=True)
    path, data = folder / "loras/sub/ink.safetensors", lora_bytes(1)
    async with manager_as_other_user(folder) as manager:
        with path.open("wb", buffering=0) as file:
            # Of full size, with random data that parses: only the missing close speaks against it.
            file.write(lora_bytes(3))
            file.seek(0)
            file.write(data[:1000])
            path = path.rename(path.with_name("oil.safetensors"))
            path.parent.rename(folder / "loras/moved")
            await manager.until(lambda state: "moved/oil" in state["waiting"])
            await asyncio.sleep(LOOKS)
            assert manager.state["resident"] == {}
            file.write(data[1000:])
        await manager.until(lambda state: state["resident"] == {"moved/oil": sha(data)})
        assert manager.resident_hashes == {sha(data)}


async def test_a_writer_from_before_the_start_is_waited_for_as_long_as_its_file_is_young(
    folder: Path,
) -> None:
    (folder / "loras").mkdir()
    path, data = folder / "loras/ink.safetensors", lora_bytes(2)

    async def keep_young() -> None:
        while True:
            os.utime(path, (1e9, 1e9))  # as `cp -p` does; the ctime is that of now
            await asyncio.sleep(0.1)

    with path.open("wb", buffering=0) as file:
        file.write(lora_bytes(1))
        touching = asyncio.create_task(keep_young())
        async with manager_as_other_user(folder) as manager:
            await manager.until(lambda state: "ink" in state["waiting"])
            assert "does not say whether a program has it open" in manager.state["waiting"]["ink"]
            file.seek(0)
            file.write(data[:1000])
            touching.cancel()
            await manager.until(lambda state: "not closed it" in state["waiting"].get("ink", ""))
            await asyncio.sleep(LOOKS)
            assert not manager.resident_hashes
            file.write(data[1000:])
            file.close()
            await manager.until(lambda state: state["resident"] == {"ink": sha(data)})
