"""Names that look like others or show nothing, on both sides of the control socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.calls import failure_of
from tests.support.fake_segment_server import FakeSegmentServer, ManagerProcess, lora_bytes
from tests.support.hand_manager import HandManager, entry_of
from tests.support.harness import running_server
from wuliart.v1.adapter_pb2 import ADAPTER_STATE_REFUSED, ListAdaptersRequest
from wuliart_contract.limits import MAX_LISTED_ADAPTERS

PLAIN, TWIN = "水墨", "水\u200d墨"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[FakeSegmentServer]:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    fake = FakeSegmentServer(folder)
    await fake.start()
    yield fake
    await fake.stop()


def put(loras: Path, name: str, seed: int) -> Path:
    loras.mkdir(exist_ok=True)
    path = loras / f"{name}.safetensors"
    path.write_bytes(lora_bytes(seed))
    return path


async def test_a_twin_is_refused_whenever_it_comes_and_the_plain_one_stays(
    server: FakeSegmentServer, tmp_path: Path
) -> None:
    loras = tmp_path / "loras"
    plain = put(loras, PLAIN, 1)
    async with ManagerProcess(loras, server.runtime_dir, "--rescan-seconds", "0.3"):
        await server.until(lambda: PLAIN in server.resident)
        put(loras, TWIN, 2)
        marked = f"{PLAIN}\ufffd"
        await server.until(lambda: set(server.catalog) == {PLAIN, marked})
        assert "U+200D ZERO WIDTH JOINER" in server.catalog[marked].refusal_reason
        assert set(server.resident) == {PLAIN}
        before = len(server.commits)
        put(loras, TWIN, 3)
        put(loras, PLAIN, 4)
        await server.until(lambda: len(server.commits) > before)
        await server.until(lambda: set(server.catalog) == {PLAIN, marked})
        plain.unlink()
        await server.until(lambda: set(server.resident) == {TWIN})
        await server.until(lambda: set(server.catalog) == {TWIN})
        put(loras, PLAIN, 5)
        await server.until(lambda: set(server.resident) == {PLAIN})
        await server.until(lambda: set(server.catalog) == {PLAIN, marked})
    assert all(name in (PLAIN, TWIN) for name, _ in server.commits)


BAD_NAMES = {
    "in\u200bk": "in\ufffdk",
    "ink\u202e": "ink\ufffd",
    "ink\n2026 INFO": "ink\ufffd2026 INFO",
    "\u3164": "\ufffd",
    "": "\ufffd",
    "x" * 100_000: "x" * 199 + "…",
}


async def test_the_server_lists_bad_names_as_refused_and_gives_them_no_slot() -> None:
    async with running_server(resident_limit=2) as server, HandManager(server) as manager:
        good = entry_of("ink", b"1")
        bad = [
            entry_of(name, b"2", title="t\u202e" * 5000, trigger_words=["w" * 9999] * 999)
            for name in BAD_NAMES
        ]
        await manager.report(good, *bad)
        listed = {
            a.name: a
            for a in (await server.adapters().ListAdapters(ListAdaptersRequest())).adapters
        }
        assert set(listed) == {"ink", *BAD_NAMES.values()}
        for name in BAD_NAMES.values():
            adapter = listed[name]
            assert adapter.state == ADAPTER_STATE_REFUSED and "rename it" in adapter.refusal_reason
            assert len(adapter.title) == 120 and "\u202e" not in adapter.title
            assert [len(word) for word in adapter.trigger_words] == [100] * 32
        for name in BAD_NAMES:
            failure = await failure_of(manager.reserve(name))
            assert failure.reason == "INVALID_REQUEST" and len(failure.message) < 200
        await manager.load("ink")


async def test_the_server_takes_no_list_without_end() -> None:
    async with running_server() as server, HandManager(server) as manager:
        await manager.report(entry_of("ink"))
        many = [entry_of("ink")] * (2 * MAX_LISTED_ADAPTERS + 1)
        failure = await failure_of(manager.report(*many))
        assert (
            failure.reason == "INVALID_REQUEST"
            and "at most 20000 of each are accepted" in failure.message
        )
        assert server.state_of("ink") == "available"
