"""The manager against files that change, go and fail at the worst moment, and its own restart."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from lora_manager import loading
from lora_manager.config import ManagerConfig
from lora_manager.lora_file import LoraFile
from lora_manager.manager import LoraManager
from tests.support.fake_segment_server import FakeSegmentServer, ManagerProcess, lora_bytes
from wuliart_lora import LoraPlan

RESCAN = ("--rescan-seconds", "0.3")

RESIDENT_LIMIT = 4


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def put(loras: Path, name: str, seed: int, *, seconds_old: float = 60) -> Path:
    path = loras / f"{name}.safetensors"
    path.write_bytes(lora_bytes(seed))
    then = time.time() - seconds_old
    os.utime(path, (then, then))
    return path


@pytest.fixture
async def here(server: FakeSegmentServer, loras: Path) -> AsyncIterator[LoraManager]:
    """A manager in this process, so that a test can get between it and a file."""
    manager = LoraManager(ManagerConfig(loras, server.runtime_dir, rescan_seconds=0.3))
    running = asyncio.create_task(manager.run())
    await server.until(lambda: server.reports)
    yield manager
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_restarted_manager_takes_nothing_away_from_files_it_has_not_judged(
    server: FakeSegmentServer, loras: Path
) -> None:
    names = ["future", "old", "rewritten", "young"]
    files = {
        name: put(loras, name, seed, seconds_old=-3600 if name == "future" else 60)
        for seed, name in enumerate(names)
    }
    async with ManagerProcess(loras, server.runtime_dir, *RESCAN):
        await server.until(lambda: sorted(server.resident) == names)
        await server.until_judged()
    await server.until(lambda: not server.session)
    os.utime(files["young"])
    new, before = lora_bytes(9), len(server.reports)
    with files["rewritten"].open("r+b", buffering=0) as file:
        file.write(new[:100])
        async with ManagerProcess(loras, server.runtime_dir, *RESCAN):
            await server.until(lambda: len(server.reports) > before)
            assert (server.reports[before], server.pending[before]) == ([], names), "at once"
            position = 100
            async with asyncio.timeout(20):
                while server.pending[-1] != ["rewritten"]:
                    position += file.write(new[position : position + 10])
                    await asyncio.sleep(0.1)
            assert sorted(server.resident) == sorted(server.catalog) == names
            file.write(new[position:])
            file.close()
            await server.until(lambda: server.resident["rewritten"].entry.content_hash == sha(new))
            await server.until_judged()
    for listed, pending in zip(server.reports[before:], server.pending[before:], strict=True):
        assert sorted(listed + pending) == names
    assert not server.dropped


async def test_a_file_that_goes_before_it_was_judged_is_given_up(
    server: FakeSegmentServer, loras: Path
) -> None:
    path = put(loras, "ink", 1)
    async with ManagerProcess(loras, server.runtime_dir, *RESCAN):
        await server.until(lambda: "ink" in server.resident)
        await server.until_judged()
    await server.until(lambda: not server.session)
    # An open file may still be written: only that keeps it from being judged at once.
    with path.open("r+b"):
        os.utime(path)
        async with ManagerProcess(loras, server.runtime_dir, "--rescan-seconds", "3600"):
            await server.until(lambda: server.pending[-1] == ["ink"])
            path.unlink()
            await server.until(lambda: server.dropped == ["ink"])


async def test_a_young_file_without_a_writer_is_judged_at_the_first_look(
    server: FakeSegmentServer, loras: Path
) -> None:
    (loras / "ink.safetensors").write_bytes(lora_bytes(1))
    async with ManagerProcess(loras, server.runtime_dir, "--rescan-seconds", "3600"):
        await server.until(lambda: "ink" in server.resident)


async def test_other_content_of_the_same_size_and_mtime_is_seen(
    server: FakeSegmentServer, loras: Path, tmp_path: Path
) -> None:
    path, other = put(loras, "ink", 1), tmp_path / "other"
    other.write_bytes(lora_bytes(2))
    shutil.copystat(path, other)
    async with ManagerProcess(loras, server.runtime_dir, *RESCAN):
        await server.until(lambda: "ink" in server.resident)
        shutil.copy2(other, path)
        await server.until(lambda: server.resident["ink"].entry.content_hash == sha(lora_bytes(2)))


Seen = Callable[[memoryview], object]
Read = tuple[LoraPlan, memoryview]


async def test_a_file_that_is_away_while_it_is_read_gets_in_when_it_is_back(
    server: FakeSegmentServer, loras: Path, here: LoraManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, reads = loading.read_once, []

    def away(found: LoraFile, shape: loading.ModelShape, seen: Seen, *config: Any) -> Read:
        reads.append(found)
        if len(reads) > 1:
            return read(found, shape, seen, *config)
        found.path.rename(loras / "away")
        try:
            return read(found, shape, seen, *config)
        finally:
            (loras / "away").rename(found.path)

    monkeypatch.setattr(loading, "read_once", away)
    put(loras, "ink", 1)
    await server.until(lambda: "ink" in server.resident)
    assert len(reads) > 1


async def test_a_read_that_fails_for_a_moment_is_repeated(
    server: FakeSegmentServer, loras: Path, here: LoraManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, failed = loading.read_once, threading.Event()

    def fail_once(found: LoraFile, shape: loading.ModelShape, seen: Seen, *config: Any) -> Read:
        if not failed.is_set():
            failed.set()
            raise loading.FileChangedError(found.relative)
        return read(found, shape, seen, *config)

    monkeypatch.setattr(loading, "read_once", fail_once)
    (loras / "ink.safetensors").write_bytes(lora_bytes(1))
    await server.until(lambda: "ink" in server.resident)
    await server.until_judged()
    assert failed.is_set()


async def test_a_file_that_vanished_while_it_was_unreadable_leaves_no_ghost(
    server: FakeSegmentServer, loras: Path, here: LoraManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, unreadable, go_on = loading.read_once, threading.Event(), threading.Event()

    def stale(found: LoraFile, shape: loading.ModelShape, seen: Seen, *config: Any) -> Read:
        if found.name != "ink":
            return read(found, shape, seen, *config)
        unreadable.set()
        assert go_on.wait(20)
        raise loading.UnreadableError("it cannot be read: Input/output error")

    monkeypatch.setattr(loading, "read_once", stale)
    (loras / "ink.safetensors").write_bytes(lora_bytes(1))
    await server.until(unreadable.is_set)
    reports = len(server.reports)
    (loras / "ink.safetensors").unlink()
    await server.until(lambda: len(server.reports) > reports)
    assert (server.reports[-1], server.pending[-1]) == ([], [])
    go_on.set()
    (loras / "oil.safetensors").write_bytes(lora_bytes(2))
    await server.until(lambda: "oil" in server.reports[-1])
    assert not any("ink" in names for names in server.reports)


async def test_want_of_memory_for_one_file_ends_no_session(
    server: FakeSegmentServer, loras: Path, here: LoraManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, session = loading.read_once, server.session

    def fail(found: LoraFile, shape: loading.ModelShape, seen: Seen, *config: Any) -> Read:
        if found.name == "huge":
            raise MemoryError
        return read(found, shape, seen, *config)

    monkeypatch.setattr(loading, "read_once", fail)
    (loras / "huge.safetensors").write_bytes(lora_bytes(1))
    await server.until(lambda: "huge" in server.catalog)
    assert "not enough memory" in server.catalog["huge"].refusal_reason
    (loras / "ink.safetensors").write_bytes(lora_bytes(2))
    await server.until(lambda: "ink" in server.resident)
    assert server.session == session


async def test_a_file_touched_while_the_server_was_away_is_loaded_into_the_new_one(
    server: FakeSegmentServer, loras: Path
) -> None:
    path = put(loras, "ink", 1)
    async with ManagerProcess(loras, server.runtime_dir, *RESCAN):
        await server.until_judged()
        await server.stop()
        path.touch()
        await asyncio.sleep(0.5)
        await server.start()
        await server.until(lambda: "ink" in server.resident)
