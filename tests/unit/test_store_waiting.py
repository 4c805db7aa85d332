"""Files that are not finished, as the server lists them; names encoded in NFC and NFD."""

from __future__ import annotations

import asyncio
import io
import unicodedata
from dataclasses import replace

import pytest
from rich.console import Console

from inference_server.adapters.changes import ChangeKind
from inference_server.adapters.metrics import Count
from inference_server.adapters.records import AdapterState, AdapterWeight, FileEntry
from inference_server.service.adapter_service import _adapter
from inference_server.service.segment_service import _waiting
from tests.support.fakes import DEADLINE
from tests.support.store_bench import StoreBench, entry, make_bench, refused
from wuliart.internal.v1 import segment_pb2
from wuliart_client._adapters import AdapterState as Shown
from wuliart_client._adapters import read_adapter
from wuliart_client.cli_adapters import adapter_table, describe
from wuliart_contract.status import Reason

WHY = "another program has it open for writing; let that finish"
NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def waiting(name: str, reason: str = WHY) -> FileEntry:
    return _waiting(segment_pb2.WaitingFile(name=name, size_bytes=10, reason=reason))


@pytest.fixture
async def bench() -> StoreBench:
    return make_bench()


def report(bench: StoreBench, *entries: FileEntry, waits: tuple[FileEntry, ...] = ()) -> None:
    judged = {e.name for e in entries}
    pending = [w.name for w in waits if w.name not in judged]
    bench.store.report(bench.session.id, entries, pending, waits)


async def test_a_file_that_was_never_judged_is_listed_as_waiting_and_cannot_be_used(
    bench: StoreBench,
) -> None:
    report(bench, entry("oil"), waits=(waiting("ink"),))
    assert bench.states() == {"ink": AdapterState.WAITING, "oil": AdapterState.AVAILABLE}
    error = await refused(
        Reason.ADAPTER_REFUSED, lambda: bench.binder.check([AdapterWeight("ink", 1.0)])
    )
    assert error.message == f"adapter 'ink' cannot be used yet: {WHY}"
    assert bench.store.catalog.nearest("inks") is None
    report(bench, entry("ink"), entry("oil"))
    assert bench.states()["ink"] is AdapterState.AVAILABLE


async def test_its_old_content_is_used_meanwhile_also_by_a_restarted_manager(
    bench: StoreBench,
) -> None:
    await bench.publish("ink")
    for entries in ((entry("ink"),), ()):  # a manager that was started again has judged nothing
        report(bench, *entries, waits=(waiting("ink"),))
        (adapter,) = bench.store.catalog.adapters
        assert adapter.state is AdapterState.RESIDENT
        assert adapter.entry == replace(entry("ink"), waiting_reason=WHY)
        bench.binder.release(await bench.bind("ink"))
    report(bench, entry("ink"))
    assert not bench.store.catalog.adapters[0].entry.waiting_reason


async def test_a_file_neither_waiting_nor_judged_is_not_listed(bench: StoreBench) -> None:
    report(bench, waits=(waiting("ink"),))
    bench.store.report(bench.session.id, [], ["ink"])
    assert bench.states() == {}
    await refused(
        Reason.MANAGER_UNAVAILABLE, lambda: bench.binder.check([AdapterWeight("ink", 1.0)])
    )


async def test_watchers_see_the_change_and_a_refusal_is_counted_once(bench: StoreBench) -> None:
    changes = bench.store.catalog.watch(None)
    await anext(changes)
    report(bench, entry("bad", refusal="rank 99"), waits=(waiting("ink"),))
    report(bench, entry("bad", refusal="rank 99"), waits=(waiting("bad"), waiting("ink", "zeros")))
    kinds = []
    for _ in range(4):
        change = await asyncio.wait_for(anext(changes), DEADLINE)
        kinds.append((change.kind, change.adapters[0].entry.waiting_reason))
    assert kinds == [
        (ChangeKind.REFUSED, ""), (ChangeKind.ADDED, WHY),
        (ChangeKind.REFUSED, WHY), (ChangeKind.UPDATED, "zeros"),
    ]  # fmt: skip
    assert bench.store.metrics.counts[Count.REFUSED] == 1


async def test_a_client_sees_the_state_and_the_reason(bench: StoreBench) -> None:
    await bench.publish("oil")
    report(bench, entry("oil"), waits=(waiting("ink"), waiting("oil", "zeros")))
    ink, oil = (read_adapter(_adapter(a)) for a in bench.store.catalog.adapters)
    assert (ink.state, ink.waiting_reason, ink.usable) == (Shown.WAITING, WHY, False)
    assert (oil.state, oil.waiting_reason, oil.usable) == (Shown.RESIDENT, "zeros", True)
    assert describe(ink) == f"waiting: {WHY}"
    assert describe(oil).endswith("; a newer version is not finished: zeros")
    written = io.StringIO()
    Console(file=written, width=400).print(adapter_table([ink, oil]))
    assert WHY in written.getvalue() and "newer version" in written.getvalue()


@pytest.mark.parametrize(("file", "typed"), [(NFD, NFC), (NFC, NFD)])
async def test_a_name_is_found_in_either_encoding_and_shown_as_it_is(file: str, typed: str) -> None:
    bench = make_bench(pinned=(typed,))
    await bench.publish(file)
    bench.binder.check([AdapterWeight(typed, 1.0)])
    binding = await bench.bind(typed)
    assert [pin.content.entry.name for pin in binding.pins] == [file]
    bench.binder.release(binding)
    assert bench.binder.try_bind([AdapterWeight(typed, 1.0)]) is not None
    (adapter,) = bench.store.catalog.adapters
    assert adapter.entry.name == file and adapter.pinned
    for name in "abcd":
        await bench.publish(name)
    assert bench.states()[file] is AdapterState.RESIDENT, "the pinned one is kept"


async def test_one_adapter_named_in_both_encodings_is_named_twice(bench: StoreBench) -> None:
    await bench.publish(NFD)
    error = await refused(
        Reason.INVALID_REQUEST,
        lambda: bench.binder.check([AdapterWeight(NFC, 1.0), AdapterWeight(NFD, 1.0)]),
    )
    assert "twice" in error.message
    report(bench, waits=())
    bench.store.report(bench.session.id, [], [NFD])
    await refused(Reason.MANAGER_UNAVAILABLE, lambda: bench.binder.check([AdapterWeight(NFC, 1.0)]))
