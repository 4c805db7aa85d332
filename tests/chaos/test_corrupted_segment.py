"""Bytes of the shared memory flip without a write: before they are committed, and after."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP

import psutil
import pytest

from tests.chaos.manager_at import ManagerStep
from tests.chaos.world import Version, World


@contextmanager
def segment(world: World) -> Iterator[mmap.mmap]:
    """The server's segment, as another process of the same user finds it."""
    pid = world.service.processes["server"].pid
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        if "wuliart-adapter-segment" in str(entry.readlink()):
            descriptor = os.open(entry, os.O_RDWR)
            with mmap.mmap(descriptor, os.fstat(descriptor).st_size) as memory:
                os.close(descriptor)
                yield memory
            return
    raise AssertionError("the server has no segment")


def slot_of(world: World, name: str) -> slice:
    """Returns the range of bytes that a resident adapter occupies in the segment."""
    (adapter,) = (adapter for adapter in world.client.adapters() if adapter.name == name)
    assert adapter.slot is not None
    start = adapter.slot * world.layout.slot_bytes
    return slice(start, start + world.layout.slot_bytes)


def written_again(world: World) -> int:
    """How often the server did not find what the manager had committed."""
    return world.service.log("manager").read_text().count("does not hold what was committed")


def test_a_byte_that_flips_before_the_commit_is_noticed_and_the_adapter_written_again(
    world: World, versions: list[Version]
) -> None:
    kept, version, *_ = versions
    world.drop("kept", kept)
    world.start_manager_at(ManagerStep.WRITTEN, SIGSTOP)
    world.await_resident("kept", kept)
    world.arm.touch()
    world.drop("ink", version)
    manager = psutil.Process(world.service.processes["manager"].pid)
    world.until(lambda: manager.status() == psutil.STATUS_STOPPED, "the manager stopped")
    before = written_again(world)
    with segment(world) as memory:
        mine = slot_of(world, "kept")
        for start in range(0, len(memory), world.layout.slot_bytes):
            if start != mine.start:
                memory[start] ^= 0x40
    manager.send_signal(SIGCONT)
    world.await_resident("ink", version)
    assert written_again(world) == before + 1
    assert world.draws("ink", version)
    assert world.draws("kept", kept)


@pytest.mark.parametrize("manager_lives", [True, False])
def test_no_image_uses_bytes_that_change_after_the_commit(
    world: World, versions: list[Version], manager_lives: bool
) -> None:
    kept, version, other, _ = versions
    world.drop("kept", kept)
    world.drop("ink", version)
    world.start_manager()
    world.await_resident("kept", kept)
    world.await_resident("ink", version)
    if not manager_lives:
        world.service.signal("manager", SIGKILL)
    with segment(world) as memory:
        memory[:] = b"\xff" * len(memory)
        assert world.draws("ink", version)
        assert world.draws("kept", kept)
    if manager_lives:
        world.drop("ink", other)
        world.await_resident("ink", other)
        assert world.draws("ink", other)
