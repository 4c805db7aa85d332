"""How often an unchanging directory is scanned, with events and without."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from lora_manager import follower
from lora_manager.admission import Admission, DirectoryChanges
from lora_manager.directory import Scan, scan
from lora_manager.follower import DirectoryFollower


@pytest.mark.parametrize("poll", [False, True])
async def test_a_large_idle_directory_is_scanned_seldom_and_a_new_file_is_seen_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, poll: bool
) -> None:
    for n in range(2000):
        (tmp_path / f"{n}.safetensors").write_bytes(b"x" * 10)
    scans: list[int] = []

    def counted(*arguments: Any) -> Scan:
        seen = scan(*arguments)
        scans.append(len(seen.files))
        return seen

    monkeypatch.setattr(follower, "scan", counted)
    changes: list[DirectoryChanges] = []
    following = DirectoryFollower(
        tmp_path, Admission(0.04), changes.append, lambda: None, rescan_seconds=0.05, poll=poll
    )
    task = asyncio.create_task(following.run())
    try:
        await following.started.wait()
        await asyncio.sleep(2)
        assert len(scans) <= 3
        before = len(changes)
        (tmp_path / "new.safetensors").write_bytes(b"y" * 10)
        async with asyncio.timeout(20):
            while not any(f.name == "new" for c in changes[before:] for f in c.admitted):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
