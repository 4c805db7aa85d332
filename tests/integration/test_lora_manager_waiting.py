"""The manager waits for what is not finished and says why; sidecars; files without identity."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import unicodedata
from pathlib import Path

import pytest

from lora_manager import loading
from lora_manager.config import ManagerConfig
from lora_manager.lora_file import Stamp
from lora_manager.manager import LoraManager
from tests.support.fake_segment_server import FakeSegmentServer, ManagerProcess, lora_bytes

RESCAN = ("--rescan-seconds", "0.3")


def content_hash(server: FakeSegmentServer, name: str) -> str:
    return server.catalog[name].content_hash if name in server.catalog else ""


def refusal(server: FakeSegmentServer, name: str) -> str:
    return server.catalog[name].refusal_reason if name in server.catalog else ""


async def test_a_file_of_full_size_that_is_still_open_is_waited_for_and_reported(
    server: FakeSegmentServer, manager: ManagerProcess, loras: Path
) -> None:
    data = lora_bytes(1, rank=8)
    with (loras / "ink.safetensors").open("wb", buffering=0) as file:
        file.write(data[: len(data) // 2])
        os.ftruncate(file.fileno(), len(data))
        await server.until(lambda: "open for writing" in server.waiting.get("ink", ""))
        await asyncio.sleep(1.2)  # four looks at which nothing changed
        assert not server.commits and "ink" not in server.catalog
        assert "ink" in server.pending[-1]
        file.write(data[len(data) // 2 :])
    await server.until(lambda: "ink" in server.resident)
    await server.until(lambda: not server.waiting)
    assert len(server.commits) == 1
    assert manager.said('waiting for "ink": another program has it open')


async def test_an_open_file_is_waited_for_also_at_the_start_however_old_it_is(
    server: FakeSegmentServer, loras: Path
) -> None:
    path = loras / "ink.safetensors"
    with path.open("wb", buffering=0) as file:
        file.write(lora_bytes(1))
        os.utime(path, (1e9, 1e9))
        (loras / "oil.safetensors").write_bytes(lora_bytes(2))
        async with ManagerProcess(loras, server.runtime_dir, *RESCAN):
            await server.until(lambda: "oil" in server.resident and "ink" in server.waiting)
            assert "ink" not in server.catalog
            file.close()
            await server.until(lambda: "ink" in server.resident)


async def test_the_old_version_is_used_while_the_next_is_waited_for(
    server: FakeSegmentServer, manager: ManagerProcess, loras: Path
) -> None:
    path = loras / "ink.safetensors"
    path.write_bytes(lora_bytes(1))
    await server.until(lambda: "ink" in server.resident)
    before = content_hash(server, "ink")
    with path.open("r+b", buffering=0) as file:
        file.write(lora_bytes(2)[:600])
        await server.until(lambda: "open for writing" in server.waiting.get("ink", ""))
        assert content_hash(server, "ink") == before and "ink" in server.resident
        file.write(lora_bytes(2)[600:])
    await server.until(lambda: content_hash(server, "ink") != before and not server.waiting)


async def test_a_stopped_download_is_waited_for_until_its_control_file_goes(
    server: FakeSegmentServer, manager: ManagerProcess, loras: Path
) -> None:
    control = loras / "ink.safetensors.aria2"
    control.write_bytes(b"\0\1")
    (loras / "ink.safetensors").write_bytes(lora_bytes(1))
    await server.until(lambda: "ink.safetensors.aria2" in server.waiting.get("ink", ""))
    await asyncio.sleep(1)
    assert not server.commits
    control.unlink()
    await server.until(lambda: "ink" in server.resident)


async def test_the_end_of_a_download_is_noticed_by_its_event(
    server: FakeSegmentServer, loras: Path
) -> None:
    control = loras / "ink.safetensors.aria2"
    control.write_bytes(b"\0\1")
    (loras / "ink.safetensors").write_bytes(lora_bytes(1))
    async with ManagerProcess(loras, server.runtime_dir, "--rescan-seconds", "3600"):
        await server.until(lambda: server.reports)
        control.unlink()
        await server.until(lambda: "ink" in server.resident)


async def test_a_file_removed_while_it_is_waited_for_is_no_longer_reported(
    server: FakeSegmentServer, manager: ManagerProcess, loras: Path
) -> None:
    (loras / "oil.safetensors").write_bytes(lora_bytes(2))
    with (loras / "ink.safetensors").open("wb"):
        await server.until(lambda: "ink" in server.waiting)
        (loras / "ink.safetensors").unlink()
        await server.until(lambda: not server.waiting and not server.pending[-1])


async def test_a_sidecar_that_comes_changes_or_goes_is_a_change_of_the_adapter(
    server: FakeSegmentServer, manager: ManagerProcess, loras: Path
) -> None:
    folder = loras / "ink"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(lora_bytes(1))
    name = "ink/adapter_model"
    await server.until(lambda: name in server.resident)
    seen = [content_hash(server, name)]
    data = [server.resident[name].data]
    for alpha in (8, 16, None):
        config = folder / "adapter_config.json"
        if alpha is None:
            config.unlink()
        else:
            config.write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": alpha}))
        await server.until(lambda: content_hash(server, name) not in ("", seen[-1]))
        await server.until(lambda: server.resident[name].entry.content_hash != seen[-1])
        seen.append(content_hash(server, name))
        data.append(server.resident[name].data)
    assert len(set(seen)) == len(set(data)) == 3 and seen[0] == seen[-1]


async def test_a_second_file_beside_a_sidecar_refuses_the_first_until_it_is_gone(
    server: FakeSegmentServer, manager: ManagerProcess, loras: Path
) -> None:
    folder = loras / "peft"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 16})
    )
    (folder / "ink.safetensors").write_bytes(lora_bytes(1))
    await server.until(lambda: "peft/ink" in server.resident)
    scaled = server.resident["peft/ink"].data
    (folder / "oil.safetensors").write_bytes(lora_bytes(2))
    await server.until(lambda: all(refusal(server, f"peft/{name}") for name in ("ink", "oil")))
    assert "may belong to it or to 'oil.safetensors'" in refusal(server, "peft/ink")
    assert "move adapter_config.json into a folder of its own" in refusal(server, "peft/ink")
    assert not server.resident
    (folder / "oil.safetensors").unlink()
    await server.until(lambda: "peft/ink" in server.resident)
    assert server.resident["peft/ink"].data == scaled
    assert not refusal(server, "peft/ink")


async def test_an_adapter_as_peft_saves_it_is_never_without_its_sidecar(
    server: FakeSegmentServer, loras: Path
) -> None:
    async with ManagerProcess(loras, server.runtime_dir):
        await server.until(lambda: server.reports)
        (loras / "adapter_model.safetensors").write_bytes(lora_bytes(1))
        await asyncio.sleep(0.5)
        (loras / "adapter_config.json").write_text(
            json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8})
        )
        await server.until(lambda: "adapter_model" in server.resident)
    assert len(server.commits) == 1


async def test_a_sidecar_that_leads_out_of_the_directory_refuses_the_adapter(
    server: FakeSegmentServer, manager: ManagerProcess, loras: Path, tmp_path: Path
) -> None:
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 1, "r": 4}')
    (loras / "adapter_config.json").symlink_to(tmp_path / "adapter_config.json")
    (loras / "ink.safetensors").write_bytes(lora_bytes(1))
    await server.until(lambda: "ink" in server.catalog)
    assert "adapter_config.json beside it is a link" in server.catalog["ink"].refusal_reason


@pytest.mark.parametrize("how", ["anew", "none"])
async def test_a_file_system_without_stable_inodes(
    server: FakeSegmentServer, loras: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """A layer over stat stands for a FUSE mount: `anew` numbers at every look, as ipfs does."""
    numbers = itertools.count(1)
    real, read, reads = Stamp.of.__func__, loading.read_once, []

    def of(cls: type[Stamp], status: os.stat_result) -> Stamp:
        stamp = real(cls, status)
        inode = next(numbers) if how == "anew" else 0
        return Stamp(stamp.device, inode, stamp.size, stamp.mtime_ns, 0)

    def counted(*arguments):
        reads.append(arguments[0].name)
        return read(*arguments)

    monkeypatch.setattr(Stamp, "of", classmethod(of))
    monkeypatch.setattr(loading, "read_once", counted)
    (loras / "folder").mkdir()
    for path in (loras / "ink.safetensors", loras / "folder/oil.safetensors"):
        path.write_bytes(lora_bytes(1))
        os.utime(path, (1e9, 1e9))
    config = ManagerConfig(loras, server.runtime_dir, rescan_seconds=0.1, poll=True)
    task = asyncio.create_task(LoraManager(config).run())
    try:
        await server.until(lambda: server.resident.keys() == {"ink", "folder/oil"})
        await asyncio.sleep(0.5)
        settled = len(reads)
        await asyncio.sleep(1)
        assert len(reads) == settled <= 4, "it is not read again at every look"
        (loras / "ink.safetensors").write_bytes(lora_bytes(2))
        before = content_hash(server, "ink")
        await server.until(lambda: content_hash(server, "ink") != before)
        assert not server.waiting
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_name_is_shown_as_the_file_system_has_it(
    server: FakeSegmentServer, manager: ManagerProcess, loras: Path
) -> None:
    name = unicodedata.normalize("NFD", "café")
    (loras / f"{name}.safetensors").write_bytes(lora_bytes(1))
    await server.until(lambda: name in server.resident)
