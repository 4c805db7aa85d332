"""Images with adapters: which are used, which are pinned, which are waited for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import torch

from inference_server.adapters import binder as binder_module
from tests.support.calls import failure_of, kinds, read_until
from tests.support.fakes import until
from tests.support.hand_manager import HandManager, entry_of
from tests.support.harness import LAYOUT, InProcessServer, running_server
from wuliart.v1.image_generation_pb2 import AdapterWeight
from wuliart_client import read_recipe


@pytest.fixture
async def server() -> AsyncIterator[InProcessServer]:
    async with running_server() as running:
        yield running


@pytest.fixture
async def manager(server: InProcessServer) -> AsyncIterator[HandManager]:
    async with HandManager(server) as attached:
        yield attached


def drawing(server: InProcessServer, *names: str, **fields: Any) -> Any:
    adapters = [AdapterWeight(name=name) for name in names]
    return server.generate(adapters=adapters, **fields)


@pytest.mark.parametrize(
    ("reported", "written"),
    [
        ("0123456789ab", 'Lora hashes: "ink: 0123456789ab", '),
        ("", ""),
        ("0123456789AB", ""),
        ('0", Steps: 99', ""),
    ],
)
async def test_a_recipe_names_the_hash_that_other_programs_compare(
    server: InProcessServer, manager: HandManager, reported: str, written: str
) -> None:
    content = manager.content(seed=3)
    entry, image = entry_of("ink", content, autov3_hash=reported), manager.image(content)
    reservation = await manager.reserve("ink")
    manager.write(reservation, image)
    await manager.commit(reservation, entry, image)
    completed = (await read_until(drawing(server, "ink"), "completed")).completed
    text = completed.image.partition(b"UNICODE\0")[2][:4000].decode("utf-16-be", "replace")
    assert f"Model: fake, {written}Adapters: " in text
    (adapter,) = read_recipe(completed.image).adapters
    assert adapter.content_hash == entry.content_hash, "for --like"


async def test_images_use_the_committed_bytes(
    server: InProcessServer, manager: HandManager
) -> None:
    content = manager.content(seed=3)
    entry, image = entry_of("ink", content), manager.image(content)
    reservation = await manager.reserve("ink")
    assert reservation.lease_ms > 0 and reservation.offset % LAYOUT.slot_bytes == 0
    assert server.state_of("ink") == "none"
    manager.write(reservation, image)
    response = await manager.commit(reservation, entry, image)
    assert server.state_of("ink") == "resident"
    assert response.revision == server.store.catalog.revision

    call = server.generate(adapters=[AdapterWeight(name="ink", weight=-0.5)])
    (use,) = (await read_until(call, "started")).started.adapters
    assert (use.name, use.weight) == ("ink", -0.5)
    assert (use.content_hash, use.generation) == (entry.content_hash, reservation.generation)
    completed = (await read_until(call, "completed")).completed
    (adapter,) = read_recipe(completed.image).adapters
    assert (adapter.name, adapter.weight, adapter.content_hash) == ("ink", -0.5, entry.content_hash)

    # The event is out before the device thread has begun.
    await until(lambda: server.engine.images)
    (gated,) = server.engine.images[0].adapters
    assert gated.gate == -0.5
    assert set(gated.tensors.factors) == {"block0.img_qkv"}
    assert set(gated.tensors.deltas) == {"block0.img_mod"}
    down, up = gated.tensors.factors["block0.img_qkv"]
    site = LAYOUT.low_rank_sites["block0.img_qkv"]
    assert down.shape == LAYOUT.down_shape(site, 4) and up.shape == LAYOUT.up_shape(site, 4)
    offsets = LAYOUT.packing(4, image.sites).offsets
    table = gated.tensors.deltas["block0.img_mod"]
    for tensor, offset in zip(
        (down, up, table), (*offsets["block0.img_qkv"], *offsets["block0.img_mod"]), strict=True
    ):
        written = image.data[offset : offset + tensor.nbytes]
        assert torch.equal(tensor.flatten().view(torch.uint8), torch.from_numpy(written.copy()))
        assert tensor.any()


async def test_an_adapter_of_weight_0_is_named_but_not_applied(
    server: InProcessServer, manager: HandManager
) -> None:
    await manager.load("ink")
    call = server.generate(adapters=[AdapterWeight(name="ink", weight=0.0)], steps=1)
    assert [use.name for use in (await read_until(call, "started")).started.adapters] == ["ink"]
    await kinds(call)
    assert not server.engine.images[0].adapters


async def test_images_keep_their_slots(server: InProcessServer, manager: HandManager) -> None:
    for name in ("a", "b"):
        await manager.load(name)
    server.engine.hold()
    call = drawing(server, "a", "b")
    await read_until(call, "started")
    failure = await failure_of(manager.reserve("c"))
    assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    server.engine.free()
    await kinds(call)
    await manager.load("c")


async def test_an_image_uses_one_version(server: InProcessServer, manager: HandManager) -> None:
    old = await manager.load("ink", seed=1)
    server.engine.hold()
    before, after = drawing(server, "ink", steps=2), None
    first = (await read_until(before, "started")).started.adapters[0]
    # The event is out before the device thread has begun.
    await until(lambda: server.engine.images)
    (gated,) = server.engine.images[0].adapters
    copy = gated.tensors.factors["block0.img_qkv"].down.clone()
    new = await manager.load("ink", seed=2)
    await manager.report(new)
    assert old.content_hash != new.content_hash
    after = drawing(server, "ink", steps=1)
    server.engine.free()
    assert (await kinds(before))[-1] == "completed"
    second = (await read_until(after, "started")).started.adapters[0]
    await kinds(after)
    assert (first.content_hash, second.content_hash) == (old.content_hash, new.content_hash)
    assert second.generation > first.generation
    assert torch.equal(gated.tensors.factors["block0.img_qkv"].down, copy)
    (fresh,) = server.engine.images[1].adapters
    assert not torch.equal(fresh.tensors.factors["block0.img_qkv"].down, copy)


async def test_a_removed_file_cannot_be_named(
    server: InProcessServer, manager: HandManager
) -> None:
    await manager.load("ink")
    server.engine.hold()
    call = drawing(server, "ink")
    await read_until(call, "started")
    await manager.report()
    failure = await failure_of(drawing(server, "ink"))
    assert failure.code is grpc.StatusCode.NOT_FOUND
    server.engine.free()
    assert (await kinds(call))[-1] == "completed"


async def test_a_request_for_an_absent_adapter_has_it_loaded(
    server: InProcessServer, manager: HandManager
) -> None:
    await manager.report(entry_of("ink", manager.content()), entry_of("oil"))
    call = drawing(server, "ink", steps=1)
    assert await manager.next_promotion() == "ink"
    assert not server.stages
    entry = await manager.load("ink")
    started = (await read_until(call, "started")).started
    assert [use.content_hash for use in started.adapters] == [entry.content_hash]
    assert (await kinds(call))[-1] == "completed"


async def test_an_absent_adapter_that_is_not_loaded(
    server: InProcessServer, manager: HandManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binder_module, "PROMOTION_SECONDS", 0.1)
    await manager.report(entry_of("ink"))
    failure = await failure_of(drawing(server, "ink"))
    assert failure.code is grpc.StatusCode.UNAVAILABLE
    assert failure.reason == "MANAGER_UNAVAILABLE"
    assert (await kinds(server.generate()))[-1] == "completed"


async def test_an_absent_adapter_that_is_refused(
    server: InProcessServer, manager: HandManager
) -> None:
    await manager.report(entry_of("ink"))
    call = drawing(server, "ink")
    await manager.next_promotion()
    await manager.report(entry_of("ink", refusal_reason="truncated"))
    failure = await failure_of(call)
    assert failure.code is grpc.StatusCode.FAILED_PRECONDITION
    assert "truncated" in failure.message


async def test_a_client_that_leaves_while_its_adapter_is_loaded(
    server: InProcessServer, manager: HandManager
) -> None:
    await manager.report(entry_of("ink"))
    call = drawing(server, "ink")
    await manager.next_promotion()
    call.cancel()
    assert (await kinds(server.generate()))[-1] == "completed"


async def test_a_replaced_file_is_not_used_any_more(
    server: InProcessServer, manager: HandManager
) -> None:
    await manager.load("ink", seed=1)
    await manager.report(entry_of("ink", manager.content(seed=2)))
    assert server.state_of("ink") == "available"
    call = drawing(server, "ink", steps=1)
    assert await manager.next_promotion() == "ink"
    new = await manager.load("ink", seed=2)
    (use,) = (await read_until(call, "started")).started.adapters
    assert use.content_hash == new.content_hash
