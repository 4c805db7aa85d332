"""Fixtures of the LoRA manager's tests: a folder, a fake server, and the manager's process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.fake_segment_server import FakeSegmentServer, ManagerProcess

RESCAN = ("--rescan-seconds", "0.3")


@pytest.fixture
def loras(tmp_path: Path) -> Path:
    """The watched directory, empty."""
    path = tmp_path / "loras"
    path.mkdir()
    return path


@pytest.fixture
async def server(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[FakeSegmentServer]:
    """A fake server with RESIDENT_LIMIT adapters of the test's module, else two."""
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o700)
    limit = getattr(request.module, "RESIDENT_LIMIT", 2)
    fake = FakeSegmentServer(runtime, resident_limit=limit)
    await fake.start()
    yield fake
    await fake.stop()


@pytest.fixture(params=[(), ("--poll",)], ids=["inotify", "poll"])
async def manager(
    request: pytest.FixtureRequest, server: FakeSegmentServer, loras: Path
) -> AsyncIterator[ManagerProcess]:
    """The manager's process, attached to the fake server; once with events and once without."""
    async with ManagerProcess(loras, server.runtime_dir, *RESCAN, *request.param) as process:
        await server.until(lambda: server.reports)
        yield process
