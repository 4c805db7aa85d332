"""Files that are not finished when they are seen: made long before they are filled, rewritten where
they lie, cut off, and changed under the manager's own eyes while it reads.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from signal import SIGCONT, SIGSTOP

import pytest

from tests.chaos.image_loop import ImageLoop
from tests.chaos.manager_at import ManagerStep
from tests.chaos.world import PATIENCE, Version, World
from wuliart_client import AdapterNotFound, AdapterRefused, AdapterState

PIECES = 24
PIECE_SECONDS = 0.05
"""A writer slow enough to be looked at several times, and never still for two looks."""


class SeenHashes:
    """Every content of an adapter that the server ever listed, refused or not."""

    def __init__(self, world: World, name: str) -> None:
        self._changes = world.client.watch(timeout=PATIENCE)
        self._name = name
        self.seen: set[str] = set()
        self.refusals: list[str] = []
        next(self._changes)

    def read_until(self, content_hash: str) -> None:
        """Takes in all changes up to this content's arrival in a slot."""
        with self._changes:
            for change in self._changes:
                for adapter in (a for a in change.adapters if a.name == self._name):
                    self.seen.add(adapter.content_hash)
                    if adapter.refusal_reason:
                        self.refusals.append(adapter.refusal_reason)
                    resident = adapter.state is AdapterState.RESIDENT
                    if resident and adapter.content_hash == content_hash:
                        return


def write_slowly(file_descriptor: int, data: bytes) -> None:
    size = len(data) // PIECES + 1
    for start in range(0, len(data), size):
        os.pwrite(file_descriptor, data[start : start + size], start)
        time.sleep(PIECE_SECONDS)


@pytest.fixture
def ready(world: World) -> World:
    world.start_manager()
    world.wait_attached()
    return world


def test_a_file_that_is_made_at_full_size_and_filled_later_is_never_a_adapter_of_zeros(
    ready: World, versions: list[Version]
) -> None:
    (version, *_) = versions
    news = SeenHashes(ready, "ink")
    with ready.path("ink").open("wb", buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, len(version.data))
        # A download that stands still is not finished while it is open, or while there are holes.
        held = ready.await_adapter("ink", lambda a: a.state is AdapterState.WAITING)
        assert "open for writing" in held.waiting_reason
        half = len(version.data) // 2
        os.pwrite(file.fileno(), version.data[:half], 0)
    held = ready.await_adapter("ink", lambda a: "zero" in a.waiting_reason)
    with pytest.raises(AdapterRefused, match="cannot be used yet"):
        ready.image("ink")
    with ready.path("ink").open("r+b", buffering=0) as file:
        write_slowly(file.fileno(), version.data)
    news.read_until(version.hash)
    assert not news.refusals and news.seen <= {"", version.hash}
    assert ready.draws("ink", version)


def test_a_file_that_is_rewritten_where_it_lies_is_the_old_one_until_it_is_the_new_one(
    ready: World, versions: list[Version]
) -> None:
    old, new, *_ = versions
    ready.drop("ink", old)
    ready.await_resident("ink", old)
    news = SeenHashes(ready, "ink")
    with ImageLoop(ready, "ink") as loop:
        with ready.path("ink").open("r+b", buffering=0) as file:
            write_slowly(file.fileno(), new.data)
            # As `rsync --inplace` ends: the new file's length.
            file.truncate(len(new.data))
        news.read_until(new.hash)
        loop.wait_for_more(4)
    loop.check()
    assert loop.versions == {old.hash, new.hash}
    assert not news.refusals and news.seen <= {old.hash, new.hash}
    assert ready.draws("ink", new)


def test_a_adapter_that_is_cut_off_where_it_lies_is_refused_and_comes_back(
    ready: World, versions: list[Version]
) -> None:
    (version, *_) = versions
    ready.drop("ink", version)
    ready.await_resident("ink", version)
    os.truncate(ready.path("ink"), len(version.data) - 1000)
    refused = ready.await_adapter("ink", lambda a: a.state is AdapterState.REFUSED)
    assert "truncated" in refused.refusal_reason
    with pytest.raises(AdapterRefused, match="truncated"):
        ready.image("ink")
    with ready.path("ink").open("ab") as file:
        file.write(version.data[-1000:])
    ready.await_resident("ink", version)
    assert ready.draws("ink", version)


def overwrite(world: World, other: Version) -> None:
    with world.path("ink").open("r+b") as file:
        file.write(other.data)


def replace(world: World, other: Version) -> None:
    world.drop("ink", other)


def delete(world: World, other: Version) -> None:
    world.path("ink").unlink()


def cut_off(world: World, other: Version) -> None:
    os.truncate(world.path("ink"), 100_000)


@pytest.mark.parametrize("deed", [overwrite, replace, delete, cut_off])
def test_what_is_done_to_a_file_while_it_is_read_is_what_counts(
    world: World, versions: list[Version], deed: Callable[[World, Version], None]
) -> None:
    first, read, other, *_ = versions
    world.start_manager_at(ManagerStep.READING, SIGSTOP)
    world.drop("ink", first)
    world.await_resident("ink", first)
    manager = world.service.processes["manager"]
    world.arm.touch()
    world.drop("ink", read)
    os.waitid(os.P_PID, manager.pid, os.WSTOPPED | os.WNOWAIT)
    deed(world, other)
    news = SeenHashes(world, "ink")
    os.kill(manager.pid, SIGCONT)
    if deed in (overwrite, replace):
        news.read_until(other.hash)
        assert read.hash not in news.seen, "a version that was gone by then was published"
        assert world.draws("ink", other)
    elif deed is delete:
        world.until(
            lambda: "ink" not in {adapter.name for adapter in world.client.adapters()}, "ink gone"
        )
        with pytest.raises(AdapterNotFound):
            world.image("ink")
    else:
        refused = world.await_adapter("ink", lambda a: a.state is AdapterState.REFUSED)
        assert "truncated" in refused.refusal_reason
    assert manager.poll() is None


def test_a_rewrite_there_and_back_again_within_one_read_ends_where_it_began(
    world: World, versions: list[Version]
) -> None:
    first, other, *_ = versions
    world.start_manager_at(ManagerStep.READING, SIGSTOP)
    world.drop("ink", first)
    world.await_resident("ink", first)
    with ImageLoop(world, "ink") as loop:
        world.arm.touch()
        world.drop("ink", other)
        manager = world.service.processes["manager"]
        os.waitid(os.P_PID, manager.pid, os.WSTOPPED | os.WNOWAIT)
        world.drop("ink", first)
        os.kill(manager.pid, SIGCONT)
        world.drop("last", other)
        world.await_resident("last", other)
        loop.wait_for_more(4)
    loop.check()
    assert world.draws("ink", first)
