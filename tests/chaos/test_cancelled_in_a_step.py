"""A client leaves in the middle of a step; the device goes on, and so does its hold on the slot."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest

from inference_server.adapters.slot_state import SlotState
from tests.support.calls import failure_of
from tests.support.fakes import until
from tests.support.hand_manager import HandManager
from tests.support.harness import InProcessServer, running_server
from wuliart.v1.image_generation_pb2 import AdapterWeight


@pytest.fixture
async def server() -> AsyncIterator[InProcessServer]:
    async with running_server(resident_limit=1) as running:
        yield running


async def test_the_slot_of_a_cancelled_image_is_free_only_when_the_device_is_done(
    server: InProcessServer,
) -> None:
    async with HandManager(server) as manager:
        await manager.load("ink", seed=1)
        held = next(s for s in server.store.slots.slots if s.state is SlotState.READY)
        generation = held.generation
        server.engine.hold()
        call = server.generate(adapters=[AdapterWeight(name="ink", weight=1.0)])
        await until(lambda: server.engine.entered("step") == 1)
        (gated,) = server.engine.images[0].adapters
        before = gated.tensors.factors["block0.img_qkv"].down.clone()
        call.cancel()
        await server.let_go(0)

        # Its adapter has a new version by now: the step under way still reads the old one.
        await manager.load("ink", seed=2)
        assert (held.state, held.pins, held.generation) == (SlotState.DRAINING, 1, generation)
        failure = await failure_of(manager.reserve("oil", evict=False))
        assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert gated.tensors.factors["block0.img_qkv"].down.equal(before)

        server.engine.free()
        await until(lambda: held.state is SlotState.FREE)
        assert server.engine.entered("step") == 1 and server.engine.entered("decode") == 0
        await manager.load("oil", seed=3)
