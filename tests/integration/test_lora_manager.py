"""The manager's process follows a directory; the server's side is a fake on real sockets."""

# ruff: noqa: ASYNC240 (files of a few kilobytes in a temporary folder)
from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.fake_segment_server import FakeSegmentServer, ManagerProcess, lora_bytes

RESCAN = ("--rescan-seconds", "0.3")


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def age(path: Path, seconds: float = 60) -> None:
    """Let a file look as if it had been lying there for a while."""
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


@pytest.fixture
async def events(server: FakeSegmentServer, loras: Path) -> AsyncIterator[ManagerProcess]:
    """A manager that hardly ever rescans: what it sees, it sees by events."""
    async with ManagerProcess(loras, server.runtime_dir, "--rescan-seconds", "3600") as process:
        await server.until(lambda: server.reports)
        yield process


def resident_hash(server: FakeSegmentServer, name: str) -> str:
    return server.resident[name].entry.content_hash if name in server.resident else ""


def listed_hash(server: FakeSegmentServer, name: str) -> str:
    return server.catalog[name].content_hash if name in server.catalog else ""


def refusal(server: FakeSegmentServer, name: str) -> str:
    return server.catalog[name].refusal_reason if name in server.catalog else ""


async def test_a_dropped_file_becomes_resident(
    server: FakeSegmentServer, manager: ManagerProcess, loras: Path
) -> None:
    data = lora_bytes(1, title="Ink wash")
    (loras / "adapters").mkdir()
    (loras / "adapters/ink.safetensors").write_bytes(data)
    await server.until(lambda: resident_hash(server, "adapters/ink") == sha(data))
    await server.until(lambda: ["adapters/ink"] in server.reports)
    entry = server.catalog["adapters/ink"]
    assert (entry.title, entry.rank, entry.size_bytes) == ("Ink wash", 4, len(data))
    await server.until(lambda: manager.said('added "adapters/ink" rank 4'))


async def test_a_replaced_file_replaces_the_adapter_without_a_gap(
    server: FakeSegmentServer, manager: ManagerProcess, loras: Path
) -> None:
    old, new = lora_bytes(1), lora_bytes(2)
    path = loras / "ink.safetensors"
    path.write_bytes(old)
    await server.until(lambda: ["ink"] in server.reports)
    first = server.resident["ink"].data
    before = len(server.reports)
    path.write_bytes(new)
    await server.until(lambda: listed_hash(server, "ink") == sha(new))
    assert resident_hash(server, "ink") == sha(new)
    assert server.resident["ink"].data != first
    assert all(names == ["ink"] for names in server.reports[before:])


async def test_a_renamed_file_changes_its_name_in_one_report(
    server: FakeSegmentServer, manager: ManagerProcess, loras: Path
) -> None:
    data = lora_bytes(1)
    (loras / "old.safetensors").write_bytes(data)
    await server.until(lambda: ["old"] in server.reports)
    (loras / "old.safetensors").rename(loras / "new.safetensors")
    await server.until(lambda: server.reports[-1] == ["new"])
    assert list(server.resident) == ["new"]
    between = server.reports[server.reports.index(["old"]) :]
    assert all(names in (["old"], ["new"]) for names in between)


async def test_a_deleted_file_loses_its_adapter(
    server: FakeSegmentServer, manager: ManagerProcess, loras: Path
) -> None:
    (loras / "ink.safetensors").write_bytes(lora_bytes(1))
    await server.until(lambda: ["ink"] in server.reports)
    (loras / "ink.safetensors").unlink()
    await server.until(lambda: server.reports[-1] == [])
    assert not server.resident
    await server.until(lambda: manager.said('removed "ink"'))


async def test_a_file_renamed_into_place_is_seen_once_and_whole(
    server: FakeSegmentServer, events: ManagerProcess, loras: Path
) -> None:
    data = lora_bytes(1)
    (loras / "ink.safetensors.part").write_bytes(data)
    (loras / "ink.safetensors.part").rename(loras / "ink.safetensors")
    await server.until(lambda: ["ink"] in server.reports)
    assert server.commits == [("ink", sha(data))]
    assert not any("part" in name for names in server.reports for name in names)


async def test_a_file_moved_in_from_elsewhere_and_a_whole_folder(
    server: FakeSegmentServer, events: ManagerProcess, loras: Path, tmp_path: Path
) -> None:
    (tmp_path / "ink").write_bytes(lora_bytes(1))
    (tmp_path / "ink").rename(loras / "ink.safetensors")
    await server.until(lambda: ["ink"] in server.reports)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "oil.safetensors").write_bytes(lora_bytes(2))
    folder.rename(loras / "folder")
    await server.until(lambda: ["folder/oil", "ink"] in server.reports)
    (loras / "folder").rename(tmp_path / "gone")
    await server.until(lambda: server.reports[-1] == ["ink"])


@pytest.mark.parametrize("mode", ["events", "poll"])
async def test_a_slow_writer_is_waited_for(
    server: FakeSegmentServer, loras: Path, mode: str
) -> None:
    data = lora_bytes(1, rank=8)
    options = ("--poll",) if mode == "poll" else ()
    async with ManagerProcess(loras, server.runtime_dir, *RESCAN, *options) as process:
        await server.until(lambda: server.reports)
        with (loras / "ink.safetensors").open("wb", buffering=0) as file:
            step = len(data) // 12 + 1
            for start in range(0, len(data), step):
                file.write(data[start : start + step])
                await asyncio.sleep(0.15)
        await server.until(lambda: resident_hash(server, "ink") == sha(data))
        assert server.commits == [("ink", sha(data))]
        assert not process.said("refused")


async def test_the_old_version_stays_while_a_new_one_is_being_written(
    server: FakeSegmentServer, events: ManagerProcess, loras: Path
) -> None:
    old, new = lora_bytes(1), lora_bytes(2)
    path = loras / "ink.safetensors"
    path.write_bytes(old)
    await server.until(lambda: ["ink"] in server.reports)
    with path.open("wb", buffering=0) as file:
        file.write(new[: len(new) // 2])
        # Another file goes all the way through meanwhile.
        (loras / "oil.safetensors").write_bytes(lora_bytes(3))
        await server.until(lambda: ["ink", "oil"] in server.reports)
        assert resident_hash(server, "ink") == listed_hash(server, "ink") == sha(old)
        file.write(new[len(new) // 2 :])
    await server.until(lambda: listed_hash(server, "ink") == sha(new))
    assert resident_hash(server, "ink") == sha(new)


async def test_touching_a_file_announces_nothing(
    server: FakeSegmentServer, manager: ManagerProcess, loras: Path
) -> None:
    path = loras / "ink.safetensors"
    path.write_bytes(lora_bytes(1))
    await server.until(lambda: ["ink"] in server.reports)
    reports, commits = len(server.reports), len(server.commits)
    path.write_bytes(lora_bytes(1))
    path.touch()
    (loras / "oil.safetensors").write_bytes(lora_bytes(2))
    await server.until(lambda: ["ink", "oil"] in server.reports)
    assert [name for name, _ in server.commits[commits:]] == ["oil"]
    assert set(map(tuple, server.reports[reports:])) == {("ink", "oil")}


async def test_rubbish_is_refused_takes_the_old_version_away_and_harms_no_other(
    server: FakeSegmentServer, manager: ManagerProcess, loras: Path
) -> None:
    (loras / "ink.safetensors").write_bytes(lora_bytes(1))
    (loras / "oil.safetensors").write_bytes(lora_bytes(2))
    await server.until(lambda: {"ink", "oil"} <= server.resident.keys())
    (loras / "ink.safetensors").write_bytes(b"\0" * 5000)
    await server.until(lambda: refusal(server, "ink"))
    assert list(server.resident) == ["oil"]
    await server.until(lambda: manager.said('refused "ink": '))
    (loras / "ink.safetensors").write_bytes(lora_bytes(3))
    await server.until(lambda: resident_hash(server, "ink") == sha(lora_bytes(3)))


async def test_what_is_refused_unread_says_why(
    server: FakeSegmentServer, manager: ManagerProcess, loras: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside.safetensors"
    outside.write_bytes(lora_bytes(1))
    store = loras / ".store"
    store.mkdir()
    (store / "blob").write_bytes(lora_bytes(2))
    age(store / "blob")
    (loras / "pickle.ckpt").write_bytes(b"\x80\x04.")
    (loras / "escape.safetensors").symlink_to(outside)
    (loras / "bad\x1bname.safetensors").write_bytes(lora_bytes(1))
    (loras / "inside.safetensors").symlink_to(store / "blob")
    (loras / "notes.txt").write_text("not listed")
    with socket.socket(socket.AF_UNIX) as pipe:
        pipe.bind(str(loras / "pipe.safetensors"))
    names = {"pickle", "escape", "bad\ufffdname", "inside"}
    await server.until(lambda: server.catalog.keys() == names)
    assert "pickle" in refusal(server, "pickle")
    assert "outside the watched directory" in refusal(server, "escape")
    assert "U+001B" in refusal(server, "bad\ufffdname")
    await server.until(lambda: list(server.resident) == ["inside"])


async def test_a_file_too_large_and_one_that_cannot_be_read(
    server: FakeSegmentServer, loras: Path
) -> None:
    (loras / "large.safetensors").write_bytes(lora_bytes(1) + b"\0" * 100_000)
    options = (*RESCAN, "--max-file-bytes", "50000")
    async with ManagerProcess(loras, server.runtime_dir, *options):
        await server.until(lambda: "50,000 is the limit" in refusal(server, "large"))
        if os.getuid() != 0:
            path = loras / "secret.safetensors"
            path.write_bytes(lora_bytes(1))
            path.chmod(0)
            await server.until(lambda: "Permission denied" in refusal(server, "secret"))
            path.chmod(0o600)
            await server.until(lambda: "secret" in server.resident)


async def test_the_directory_vanishing_evicts_nothing(
    server: FakeSegmentServer, manager: ManagerProcess, loras: Path
) -> None:
    for seed, name in enumerate(("ink", "oil")):
        (loras / f"{name}.safetensors").write_bytes(lora_bytes(seed))
    await server.until(lambda: server.reports[-1] == ["ink", "oil"])
    reports = len(server.reports)
    away = loras.with_name("away")
    loras.rename(away)
    await server.until(lambda: manager.said("cannot be listed"))
    loras.mkdir()
    await server.until(lambda: manager.said("is it mounted?"))
    assert len(server.reports) == reports
    assert server.resident.keys() == {"ink", "oil"}
    loras.rmdir()
    away.rename(loras)
    (loras / "oil.safetensors").unlink()
    await server.until(lambda: server.reports[-1] == ["ink"])


async def test_deleting_all_files_is_believed_when_events_tell_it(
    server: FakeSegmentServer, events: ManagerProcess, loras: Path
) -> None:
    for seed, name in enumerate(("ink", "oil")):
        (loras / f"{name}.safetensors").write_bytes(lora_bytes(seed))
    await server.until(lambda: len(server.catalog) == 2)
    for path in loras.iterdir():
        path.unlink()
    await server.until(lambda: server.reports[-1] == [])


async def test_a_swapped_folder_link_as_kubernetes_does_it(
    server: FakeSegmentServer, manager: ManagerProcess, loras: Path
) -> None:
    for version in (1, 2):
        folder = loras / f"..v{version}"
        folder.mkdir()
        (folder / "ink.safetensors").write_bytes(lora_bytes(version))
    (loras / "..data").symlink_to("..v1")
    (loras / "ink.safetensors").symlink_to("..data/ink.safetensors")
    (loras / "loop").symlink_to(loras)
    await server.until(lambda: resident_hash(server, "ink") == sha(lora_bytes(1)))
    (loras / "..data_tmp").symlink_to("..v2")
    (loras / "..data_tmp").rename(loras / "..data")
    await server.until(lambda: resident_hash(server, "ink") == sha(lora_bytes(2)))
    assert server.catalog.keys() == {"ink"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_and_lets_the_server_know(
    server: FakeSegmentServer, manager: ManagerProcess, number: signal.Signals
) -> None:
    manager.process.send_signal(number)
    assert await manager.process.wait() == 0
    await server.until(lambda: server.writer_gone.is_set() and not server.session)


async def test_what_a_file_holds_in_vain_is_reported_and_logged_also_from_an_earlier_run(
    server: FakeSegmentServer, loras: Path
) -> None:
    names = ("ink", "oil", "chalk")
    for name in names:
        (loras / f"{name}.safetensors").write_bytes(lora_bytes(1, idle=True))
        age(loras / f"{name}.safetensors")
    note = "ignored text encoder weights (2 tensors), which are zero"
    for _ in range(2):  # the second manager reads only what becomes resident
        async with ManagerProcess(loras, server.runtime_dir, *RESCAN) as manager:
            await server.until(lambda: set(server.catalog) == set(names))
            await server.until_judged()
            assert all(list(server.catalog[name].notes) == [note] for name in names)
            for name in names:
                await server.until(lambda name=name: manager.said(f'"{name}": {note}'))
            manager.process.send_signal(signal.SIGTERM)
            await manager.process.wait()
        await server.stop()
        await server.start()
