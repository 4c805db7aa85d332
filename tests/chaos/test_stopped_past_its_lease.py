"""A manager that is stopped in the middle of a copy and goes on when its time is over.

The manager is the real program on real sockets; the server's parts are in this process, so that the
lease can be short and every slot can be looked at.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP

import pytest

from inference_server.adapters import store as store_module
from inference_server.adapters.slot_state import Slot, SlotState
from inference_server.service import listeners
from tests.chaos.manager_at import ManagerStep
from tests.support.fake_segment_server import lora_bytes
from tests.support.fakes import until
from tests.support.harness import CONDITIONING, LAYOUT, InProcessServer, running_server
from wuliart_lora import parse_lora
from wuliart_lora.slot_image import build_image, module_shapes

LEASE_SECONDS = 1.0
NOTICE_MS = 300
"""How soon a peer that does not answer is given up."""


class StoppedManager:
    """A manager that stops itself half way through a copy once it is armed."""

    def __init__(self, process: asyncio.subprocess.Process, loras: Path, arm: Path) -> None:
        self.process = process
        self.loras = loras
        self._arm = arm

    def drop(self, name: str, seed: int) -> None:
        """Renames a finished file in."""
        aside = self.loras.parent / "aside"
        aside.write_bytes(lora_bytes(seed))
        aside.rename(self.loras / f"{name}.safetensors")

    async def stop_in_a_copy(self, name: str, seed: int) -> None:
        self._arm.touch()
        self.drop(name, seed)
        await until(lambda: self._state() == "T")

    def go_on(self) -> None:
        self.process.send_signal(SIGCONT)

    def _state(self) -> str:
        status = Path(f"/proc/{self.process.pid}/stat").read_text()
        return status.rpartition(") ")[2][0]


@asynccontextmanager
async def manager(
    server: InProcessServer, folder: Path, step: ManagerStep
) -> AsyncIterator[StoppedManager]:
    loras, arm = folder / "loras", folder / f"arm-{step}"
    loras.mkdir(exist_ok=True)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.chaos.manager_at", step, SIGSTOP.name, arm,
        "--loras", loras, "--runtime-dir", server.directory, "--rescan-seconds", "0.3",
    )  # fmt: skip
    try:
        yield StoppedManager(process, loras, arm)
    finally:
        process.kill()
        assert await process.wait() == -SIGKILL, "the manager ended by itself"


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[InProcessServer]:
    monkeypatch.setattr(store_module, "LEASE_SECONDS", LEASE_SECONDS)
    async with running_server(resident_limit=3) as running:
        yield running


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server gives up a session whose process does not answer, as it does after 15 s."""
    names = ("keepalive_time_ms", "keepalive_timeout_ms", "http2.ping_timeout_ms")
    options = dict(listeners.KEEPALIVE) | {f"grpc.{name}": NOTICE_MS for name in names}
    monkeypatch.setattr(listeners, "KEEPALIVE", tuple(options.items()))


def slot_of(server: InProcessServer, name: str, state: SlotState) -> Slot:
    slots = server.store.slots.slots
    (slot,) = (slot for slot in slots if (slot.name, slot.state) == (name, state))
    return slot


def holds(server: InProcessServer, slot: Slot, seed: int) -> bool:
    """Returns True if the slot's bytes are the image of this version."""
    adapter = parse_lora(lora_bytes(seed), module_shapes(LAYOUT), LAYOUT.parameters.max_rank)
    image = build_image(adapter, LAYOUT, CONDITIONING).data.tobytes()
    return _bytes(server, slot).startswith(image)


def _bytes(server: InProcessServer, slot: Slot) -> bytes:
    segment = server.store.segment
    return os.pread(segment.descriptor, segment.layout.slot_bytes, segment.offset(slot.index))


def resident(server: InProcessServer, name: str, seed: int) -> bool:
    published = server.store.slots.published(name)
    wanted = hashlib.sha256(lora_bytes(seed)).hexdigest()
    return published is not None and published.entry.content_hash == wanted


@pytest.mark.parametrize("step", [ManagerStep.HALF_WRITTEN, ManagerStep.WRITTEN], ids=str)
async def test_a_commit_after_the_lease_is_rejected_and_the_file_is_written_anew(
    server: InProcessServer, tmp_path: Path, step: ManagerStep
) -> None:
    async with manager(server, tmp_path, step) as stopped:
        await until(lambda: server.store.manager_attached)
        stopped.drop("ink", seed=1)
        await until(lambda: resident(server, "ink", seed=1))
        ready = slot_of(server, "ink", SlotState.READY)
        await stopped.stop_in_a_copy("ink", seed=2)
        late = slot_of(server, "ink", SlotState.RESERVED)
        generation = late.generation
        await until(lambda: time.monotonic() > late.lease_ends)
        # Until the last moment the name means the version that was there.
        assert resident(server, "ink", seed=1) and holds(server, ready, seed=1)
        stopped.go_on()
        await until(lambda: resident(server, "ink", seed=2))
        fresh = slot_of(server, "ink", SlotState.READY)
        assert fresh.generation > generation, "the late commit was taken"
        assert holds(server, fresh, seed=2)
        assert late.state in (SlotState.FREE, SlotState.READY), "the late slot was not given back"


async def test_a_late_write_meets_a_slot_that_was_not_reused(
    impatient: None, server: InProcessServer, tmp_path: Path
) -> None:
    async with manager(server, tmp_path, ManagerStep.HALF_WRITTEN) as stopped:
        await until(lambda: server.store.manager_attached)
        await stopped.stop_in_a_copy("ink", seed=1)
        await until(lambda: not server.store.manager_attached)
        late = slot_of(server, "ink", SlotState.QUARANTINE)
        assert not holds(server, late, seed=1)
        async with manager(server, tmp_path, ManagerStep.ATTACHED) as successor:
            await until(lambda: resident(server, "ink", seed=1))
            for seed in (2, 3, 4, 5):
                successor.drop("oil", seed)
                await until(partial(resident, server, "oil", seed))
                assert slot_of(server, "ink", SlotState.QUARANTINE) is late
            session = server.store._session
            stopped.go_on()
            # It learns that its session is over, lets go of the memory, and is refused a new one.
            await until(lambda: late.state is SlotState.FREE)
            assert not any(_bytes(server, late))
            assert holds(server, slot_of(server, "ink", SlotState.READY), seed=1)
            assert holds(server, slot_of(server, "oil", SlotState.READY), seed=5)
            assert server.store._session is session is not None
            successor.drop("oil", seed=6)
            await until(lambda: resident(server, "oil", seed=6))
