"""Verdicts that are kept from run to run: when they hold, and what is not believed."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import load, save

from lora_manager import loading, verdict_file, verdicts
from lora_manager.catalog import Entry
from lora_manager.config import ManagerConfig
from lora_manager.directory import inspect
from lora_manager.lora_file import LoraFile
from lora_manager.manager import LoraManager
from lora_manager.verdict_file import VerdictFile, default_cache_dir
from lora_manager.verdicts import Verdicts, to_json
from tests.support.fake_segment_server import FakeSegmentServer, lora_bytes

LAYOUT = "layout"


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoraFile:
    monkeypatch.setattr(verdicts, "_SETTLED_SECONDS", 0)
    (tmp_path / "ink.safetensors").write_bytes(lora_bytes(1))
    found = inspect(tmp_path, "ink.safetensors")
    assert found is not None
    return found


def entry(found: LoraFile) -> Entry:
    return Entry(found, "ab" * 32, "Ink", ("brush", "水墨"), 4, "", "0123456789ab", ("a note",))


def kept(entry: Entry) -> bytes:
    table = Verdicts()
    table.put(entry, LAYOUT)
    assert table.unsaved
    data = to_json(table.rows())
    assert not table.unsaved
    return data


def test_a_verdict_is_found_as_it_was_put(found: LoraFile) -> None:
    for put in (entry(found), replace(entry(found), refusal="rank 99", title="")):
        again = Verdicts(kept(put))
        assert again.find(found, LAYOUT) == put
        again.put(put, LAYOUT)
        assert not again.unsaved


def test_a_verdict_holds_for_one_state_of_file_and_sidecar_and_one_layout(found: LoraFile) -> None:
    table = Verdicts(kept(entry(found)))
    other = replace(found.stamp, ctime_ns=found.stamp.ctime_ns + 1)
    assert table.find(replace(found, stamp=other), LAYOUT) is None
    assert table.find(replace(found, sidecar=found.path, sidecar_stamp=other), LAYOUT) is None
    assert table.find(replace(found, refusal="a link"), LAYOUT) is None
    assert table.find(replace(found, relative="oil.safetensors"), LAYOUT) is None
    assert table.find(found, "another") is None
    assert table.find(found, LAYOUT) is not None


def test_another_version_of_the_code_that_judges_believes_nothing(
    found: LoraFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = kept(entry(found))
    assert len(Verdicts(data)) == 1
    monkeypatch.setattr(verdicts, "judged_by", lambda: "another")
    assert len(Verdicts(data)) == 0
    monkeypatch.setattr(verdicts, "judged_by", lambda: "")
    assert len(Verdicts(data)) == 0 and to_json(Verdicts().rows()) == b""


def test_what_was_not_read_whole_or_written_just_now_is_not_kept(
    found: LoraFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Verdicts()
    table.put(replace(entry(found), content_hash=""), LAYOUT)
    monkeypatch.setattr(verdicts, "_SETTLED_SECONDS", 3600)
    table.put(entry(found), LAYOUT)
    without = replace(found.stamp.without_inode(), mtime_ns=0)
    table.put(entry(replace(found, stamp=without)), LAYOUT)
    assert len(table) == 0 and not table.unsaved


def test_what_is_misshapen_is_passed_over(found: LoraFile) -> None:
    good = json.loads(kept(entry(found)))
    row = good["files"].pop("ink.safetensors")
    for name in row:
        for wrong in (None, 1.5, [1], "x", {"a": 1}, [[]], True):
            if type(wrong) is type(row[name]):
                continue
            good["files"][f"{name} {wrong}"] = row | {name: wrong}
        good["files"][f"without {name}"] = {n: v for n, v in row.items() if n != name}
    good["files"]["row"] = 3
    good["files"]["ink.safetensors"] = row
    table = Verdicts(json.dumps(good).encode())
    assert table.find(found, LAYOUT) == entry(found) and len(table) == 1
    for data in (b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"files": {}}'):
        assert len(Verdicts(data)) == 0
    assert len(Verdicts(json.dumps(good | {"files": [1]}).encode())) == 0


def test_there_are_no_more_than_files_are_listed(
    found: LoraFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdicts, "MAX_LISTED_ADAPTERS", 3)
    table = Verdicts()
    for n in range(5):
        table.put(entry(replace(found, relative=f"{n}.safetensors")), LAYOUT)
    assert list(table.rows()) == ["2.safetensors", "3.safetensors", "4.safetensors"]


def test_the_file_is_the_users_alone_and_written_in_one_step(tmp_path: Path) -> None:
    folder = tmp_path / "new/wuliart"
    file = VerdictFile(folder, tmp_path / "loras")
    assert file.read() == b""
    for data in (b"one", b"two"):
        file.write(data)
        assert file.read() == data
    (written,) = folder.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    assert VerdictFile(folder, tmp_path / "other").read() == b""
    assert VerdictFile(None, tmp_path).read() == b""


def test_what_others_can_change_is_neither_read_nor_written(tmp_path: Path) -> None:
    folder = tmp_path / "wuliart"
    file = VerdictFile(folder, tmp_path)
    file.write(b"mine")
    (written,) = folder.iterdir()
    written.chmod(0o666)
    assert file.read() == b""
    written.chmod(0o600)
    assert file.read() == b"mine"
    for mode in (0o777, 0o750, 0o701):
        folder.chmod(mode)
        file.write(b"more")
        assert file.read() == b""
    folder.chmod(0o700)
    assert file.read() == b"mine"
    written.rename(tmp_path / "elsewhere")
    written.symlink_to(tmp_path / "elsewhere")
    assert file.read() == b""
    file.write(b"again")
    assert file.read() == b"again" and not written.is_symlink()
    assert (tmp_path / "elsewhere").read_bytes() == b"mine"
    written.unlink()
    os.mkfifo(written)
    assert file.read() == b""
    folder.rename(tmp_path / "away")
    folder.symlink_to(tmp_path / "away")
    file.write(b"no")
    assert file.read() == b"" and written.is_fifo()


def test_what_is_too_large_or_too_much_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "wuliart"
    for n in range(verdict_file.MAX_FILES + 3):
        VerdictFile(folder, tmp_path / f"{n}").write(b"x")
    (folder / "note").write_text("kept")
    VerdictFile(folder, tmp_path).write(b"x")
    assert len(list(folder.iterdir())) == verdict_file.MAX_FILES + 1
    monkeypatch.setattr(verdict_file, "MAX_BYTES", 3)
    file = VerdictFile(folder, tmp_path)
    file.write(b"four")
    assert file.read() == b"x"


def test_nothing_goes_wrong_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file/wuliart", Path("/proc/wuliart")):
        file = VerdictFile(folder, tmp_path)
        file.write(b"x")
        assert file.read() == b""


def test_where_it_lies(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    assert default_cache_dir(home) == tmp_path / ".cache/wuliart"
    assert default_cache_dir(home | {"XDG_CACHE_HOME": "/c"}) == Path("/c/wuliart")
    assert default_cache_dir(home | {"XDG_CACHE_HOME": "relative"}) == tmp_path / ".cache/wuliart"
    for environment in ({}, {"HOME": ""}, {"HOME": "/no/such"}, {"HOME": "relative"}):
        assert default_cache_dir(environment) is None


async def test_a_start_reads_only_what_becomes_resident(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loras, runtime = tmp_path / "loras", tmp_path / "run"
    loras.mkdir()
    runtime.mkdir(mode=0o700)
    for n in range(12):
        data = lora_bytes(n)
        if n >= 10:
            data = save({name: t * float("nan") for name, t in load(data).items()})
        path = loras / f"adapter{n}.safetensors"
        path.write_bytes(data)
        os.utime(path, (1e9 + n, 1e9 + n))
    # What has been written just now is not believed; the ctime cannot be set.
    await asyncio.sleep(2.1)
    reads: list[str] = []
    read = loading.read_once

    def counted(found: LoraFile, *rest):
        reads.append(found.name)
        return read(found, *rest)

    monkeypatch.setattr(loading, "read_once", counted)
    server = FakeSegmentServer(runtime, resident_limit=2)

    async def life() -> tuple[list[str], dict[str, bytes]]:
        reads.clear()
        await server.start()
        config = ManagerConfig(loras, runtime, cache_dir=tmp_path / "cache", rescan_seconds=0.3)
        task = asyncio.create_task(LoraManager(config).run())
        await server.until(lambda: len(server.catalog) == 12 and not server.pending[-1])
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await server.stop()
        catalog = {n: e.SerializeToString(deterministic=True) for n, e in server.catalog.items()}
        return sorted(reads), catalog

    first, reported = await life()
    assert len(first) == 12
    second, reported_again = await life()
    assert second == ["adapter8", "adapter9"] and reported_again == reported
    # Other content behind the same stamp: what becomes resident is what was read.
    (cache,) = (tmp_path / "cache").iterdir()
    table = json.loads(cache.read_bytes())
    for row in table["files"].values():
        row["content_hash"] = "00" * 32
    cache.write_text(json.dumps(table))
    _, lied = await life()
    assert {n for n in reported if lied[n] == reported[n]} == {"adapter8", "adapter9"}
    assert await life() == (["adapter8", "adapter9"], lied)
    cache.unlink()
    third, reported_last = await life()
    assert len(third) == 12 and reported_last == reported
