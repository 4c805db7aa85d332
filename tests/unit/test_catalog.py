"""The catalog logs each change once and in order, and no watcher misses one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

import pytest

from inference_server.adapters.catalog import Catalog
from inference_server.adapters.changes import LOG_LENGTH, Change, ChangeKind
from inference_server.adapters.records import AdapterState, FileEntry, Resident
from inference_server.model.kernels.low_rank import AdapterTensors
from tests.support.fakes import DEADLINE


def entry(name: str, version: int = 1, refusal: str = "") -> FileEntry:
    return FileEntry(name, name.title(), ("word",), 4, 1000, f"hash {version}", refusal)


@dataclass
class CatalogBench:
    """A catalog over a dictionary in place of slots."""

    resident: dict[str, Resident] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.catalog = Catalog(self.resident.get)

    def load(self, loaded: FileEntry, generation: int = 7) -> None:
        self.resident[loaded.name] = Resident(loaded, generation, 1234.5, AdapterTensors({}, {}), 2)
        self.catalog.refresh()


@pytest.fixture
async def bench() -> CatalogBench:
    return CatalogBench()


async def take(watch: AsyncIterator[Change], count: int) -> list[Change]:
    return [await asyncio.wait_for(anext(watch), DEADLINE) for _ in range(count)]


async def nothing_comes(watch: AsyncIterator[Change]) -> None:
    """Checks that the watch waits; nothing may be read from it afterwards."""
    waiting = asyncio.ensure_future(anext(watch))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done(), waiting
    waiting.cancel()


def summary(changes: list[Change]) -> list[tuple[ChangeKind, str]]:
    return [(change.kind, change.adapters[0].entry.name) for change in changes]


def follow(changes: list[Change]) -> dict[str, tuple[str, AdapterState]]:
    """Returns what a client knows after these changes: name -> content, state."""
    known: dict[str, tuple[str, AdapterState]] = {}
    for change in changes:
        if change.kind is ChangeKind.SNAPSHOT:
            known.clear()
        for adapter in change.adapters:
            if change.kind is ChangeKind.REMOVED:
                del known[adapter.entry.name]
            else:
                known[adapter.entry.name] = (adapter.entry.content_hash, adapter.state)
    return known


async def test_a_watch_begins_with_everything(bench: CatalogBench) -> None:
    bench.catalog.replace([entry("b"), entry("a"), entry("c", refusal="is a web page")])
    (snapshot,) = await take(bench.catalog.watch(None), 1)
    assert snapshot.kind is ChangeKind.SNAPSHOT
    assert snapshot.revision == bench.catalog.revision == 3
    assert [a.entry.name for a in snapshot.adapters] == ["a", "b", "c"]
    assert snapshot.adapters == bench.catalog.adapters


async def test_an_empty_catalog_has_an_empty_snapshot(bench: CatalogBench) -> None:
    (snapshot,) = await take(bench.catalog.watch(None), 1)
    assert (snapshot.kind, snapshot.adapters) == (ChangeKind.SNAPSHOT, ())


async def test_every_kind_of_change(bench: CatalogBench) -> None:
    watch = bench.catalog.watch(None)
    await take(watch, 1)
    steps: list[tuple[list[FileEntry], ChangeKind]] = [
        ([entry("a")], ChangeKind.ADDED),
        ([entry("a", 2)], ChangeKind.UPDATED),
        ([entry("a", 2, "rank 99")], ChangeKind.REFUSED),
        ([entry("a", 2, "rank 98")], ChangeKind.REFUSED),
        ([entry("a", 3)], ChangeKind.UPDATED),
        ([replace(entry("a", 3), title="Another")], ChangeKind.UPDATED),
        ([], ChangeKind.REMOVED),
        ([entry("a", 3, "broken")], ChangeKind.REFUSED),
        ([], ChangeKind.REMOVED),
    ]
    for number, (entries, kind) in enumerate(steps, start=1):
        bench.catalog.replace(entries)
        (change,) = await take(watch, 1)
        assert (change.kind, change.revision, len(change.adapters)) == (kind, number, 1)
        if entries:
            assert change.adapters[0].entry == entries[0]
    assert change.adapters[0].entry.refusal_reason == "broken", "as it last was"


async def test_the_same_report_again_is_no_change(bench: CatalogBench) -> None:
    bench.catalog.replace([entry("a"), entry("b")])
    watch = bench.catalog.watch(bench.catalog.revision)
    bench.catalog.replace([entry("b"), entry("a")])
    bench.catalog.refresh()
    assert bench.catalog.revision == 2
    await nothing_comes(watch)


async def test_a_resident_adapter_is_listed_as_resident(bench: CatalogBench) -> None:
    bench.catalog.replace([entry("a"), entry("b")])
    watch = bench.catalog.watch(bench.catalog.revision)
    bench.load(entry("a"), generation=9)
    (change,) = await take(watch, 1)
    (adapter,) = change.adapters
    assert change.kind is ChangeKind.UPDATED
    assert (adapter.state, adapter.generation, adapter.resident_since, adapter.slot) == (
        AdapterState.RESIDENT, 9, 1234.5, 2,
    )  # fmt: skip
    bench.resident.clear()
    bench.catalog.refresh()
    (change,) = await take(watch, 1)
    (adapter,) = change.adapters
    assert (adapter.state, adapter.generation, adapter.resident_since, adapter.slot) == (
        AdapterState.AVAILABLE, 0, 0.0, None,
    )  # fmt: skip


async def test_a_pinned_name_is_shown_as_such_in_every_state() -> None:
    resident: dict[str, Resident] = {}
    catalog = Catalog(resident.get, ["a", "never there"])
    for entries in ([entry("a"), entry("b")], [entry("a", refusal="broken"), entry("b")]):
        catalog.replace(entries)
        assert [adapter.pinned for adapter in catalog.adapters] == [True, False]
    resident["a"] = Resident(entry("a"), 1, 0.0, AdapterTensors({}, {}), 0)
    catalog.replace([entry("a")])
    assert [(adapter.state, adapter.pinned) for adapter in catalog.adapters] == [
        (AdapterState.RESIDENT, True)
    ]


async def test_an_old_version_in_memory_is_not_the_file(bench: CatalogBench) -> None:
    bench.load(entry("a", 1))
    bench.catalog.replace([entry("a", 2), entry("b", refusal="broken")])
    bench.load(entry("b"))
    found = [bench.catalog.get(name) for name in "abc"]
    assert [adapter and adapter.state for adapter in found] == [
        AdapterState.AVAILABLE, AdapterState.REFUSED, None,
    ]  # fmt: skip


async def test_one_entry_ahead_of_the_report(bench: CatalogBench) -> None:
    bench.catalog.replace([entry("a")])
    bench.catalog.put(entry("b"))
    assert [a.entry.name for a in bench.catalog.adapters] == ["a", "b"]
    bench.catalog.replace([entry("a")])
    assert [a.entry.name for a in bench.catalog.adapters] == ["a"]


async def test_going_on_from_a_revision(bench: CatalogBench) -> None:
    for name in "abcd":
        bench.catalog.put(entry(name))
    changes = await take(bench.catalog.watch(2), 2)
    assert [change.revision for change in changes] == [3, 4]
    assert summary(changes) == [(ChangeKind.ADDED, "c"), (ChangeKind.ADDED, "d")]
    await nothing_comes(bench.catalog.watch(4))
    assert summary(await take(bench.catalog.watch(0), 4))[0] == (ChangeKind.ADDED, "a")


@pytest.mark.parametrize("since", [5, 10_000])
async def test_a_revision_of_another_life_gets_a_snapshot(bench: CatalogBench, since: int) -> None:
    for name in "abcd":
        bench.catalog.put(entry(name))
    (first,) = await take(bench.catalog.watch(since), 1)
    assert (first.kind, first.revision) == (ChangeKind.SNAPSHOT, 4)


async def test_a_revision_before_memory_gets_a_snapshot(bench: CatalogBench) -> None:
    for version in range(LOG_LENGTH + 10):
        bench.catalog.put(entry("a", version))
    (first,) = await take(bench.catalog.watch(9), 1)
    assert (first.kind, first.revision) == (ChangeKind.SNAPSHOT, LOG_LENGTH + 10)
    (first,) = await take(bench.catalog.watch(10), 1)
    assert (first.kind, first.revision) == (ChangeKind.UPDATED, 11)


@pytest.mark.parametrize("since", [None, 0, 1])
async def test_changes_while_a_watcher_is_busy_with_one_are_not_lost(
    bench: CatalogBench, since: int | None
) -> None:
    """A slow reader gets the changes that happened while it held a response."""
    bench.catalog.put(entry("a"))
    bench.catalog.put(entry("b"))
    watch = bench.catalog.watch(since)
    changes = await take(watch, 1)
    bench.catalog.put(entry("c"))
    bench.catalog.put(entry("d"))
    while changes[-1].revision < bench.catalog.revision:
        changes += await take(watch, 1)
        if len(changes) == 3:
            bench.catalog.put(entry("e"))
    revisions = [change.revision for change in changes]
    assert revisions == list(range(revisions[0], 6))
    if since is None:
        assert follow(changes).keys() == set("abcde")


async def test_a_watcher_that_fell_far_behind_gets_everything_at_once(bench: CatalogBench) -> None:
    bench.catalog.put(entry("a"))
    watch = bench.catalog.watch(0)
    changes = await take(watch, 1)
    for version in range(2 * LOG_LENGTH):
        bench.catalog.put(entry("b", version))
    changes += await take(watch, 1)
    assert changes[-1].kind is ChangeKind.SNAPSHOT
    bench.catalog.put(entry("c"))
    changes += await take(watch, 1)
    assert summary(changes[-1:]) == [(ChangeKind.ADDED, "c")]
    assert follow(changes) == {a.entry.name: (a.entry.content_hash, a.state)
                               for a in bench.catalog.adapters}  # fmt: skip


async def test_many_watchers_of_every_pace_end_up_knowing_the_same(bench: CatalogBench) -> None:
    async def watcher(pace: int) -> dict[str, tuple[str, AdapterState]]:
        seen: list[Change] = []
        async for change in bench.catalog.watch(None):
            seen.append(change)
            for _ in range(pace):
                await asyncio.sleep(0)
            if change.revision >= last:
                break
        return follow(seen)

    last = 300
    tasks = [asyncio.create_task(watcher(pace % 7)) for pace in range(40)]
    await asyncio.sleep(0)
    while bench.catalog.revision < last:
        n = bench.catalog.revision
        bench.catalog.put(entry(f"adapter {n % 11}", n, "broken" if n % 5 == 0 else ""))
        if n % 3 == 0:
            await asyncio.sleep(0)
    truth = {a.entry.name: (a.entry.content_hash, a.state) for a in bench.catalog.adapters}
    for known in await asyncio.wait_for(asyncio.gather(*tasks), DEADLINE):
        assert known == truth


async def test_a_watcher_that_leaves_does_not_disturb_the_others(bench: CatalogBench) -> None:
    stays, leaves = bench.catalog.watch(None), bench.catalog.watch(None)
    await take(stays, 1)
    await take(leaves, 1)
    await nothing_comes(leaves)
    bench.catalog.put(entry("a"))
    assert summary(await take(stays, 1)) == [(ChangeKind.ADDED, "a")]


@pytest.mark.parametrize(
    ("typed", "nearest"),
    [
        ("watercolour", "watercolor"),
        ("WATERCOLOR", "watercolor"),
        ("ghibli", "anime/Ghibli"),
        ("Anime/ghibly", "anime/Ghibli"),
        ("水墨", "水墨画"),
        ("水墨面", "水墨画"),
        ("赛博", "赛博朋克"),
        ("STRASSE", "straße"),
        ("broken stlye", None),
        ("zzz", None),
        ("", None),
    ],
)
async def test_the_nearest_name(bench: CatalogBench, typed: str, nearest: str | None) -> None:
    names = ("watercolor", "anime/Ghibli", "水墨画", "赛博朋克", "straße")
    refused = entry("broken adapter", refusal="broken")
    bench.catalog.replace([*(entry(name) for name in names), refused])
    assert bench.catalog.nearest(typed) == nearest


async def test_without_adapters_there_is_no_nearest(bench: CatalogBench) -> None:
    assert bench.catalog.nearest("anything") is None
