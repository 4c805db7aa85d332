"""No file can be written any more: logs are lost, images are not."""

from __future__ import annotations

import errno
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.chaos.image_loop import ImageLoop
from tests.chaos.leaks import nothing_leaks
from tests.chaos.world import Version, World
from wuliart_client import AdapterState

PROCESSES = ("server", "manager")


@contextmanager
def no_file_may_grow(world: World, *names: str) -> Iterator[None]:
    """Every write to a file of theirs fails, as on a full disk."""
    pids = [world.service.processes[name].pid for name in names]
    limit = resource.RLIMIT_FSIZE
    before = [resource.prlimit(pid, limit) for pid in pids]
    for pid, (_, hard) in zip(pids, before, strict=True):
        resource.prlimit(pid, limit, (0, hard))
    try:
        yield
    finally:
        for pid, limits in zip(pids, before, strict=True):
            resource.prlimit(pid, limit, limits)


def test_images_are_drawn_and_adapters_change_while_no_file_can_be_written(
    world: World, versions: list[Version]
) -> None:
    first, second, *_ = versions
    world.drop("ink", first)
    world.start_manager()
    world.await_resident("ink", first)
    log = world.service.log("server")
    with ImageLoop(world, "ink") as loop, nothing_leaks(world, *PROCESSES, threads=2):
        with no_file_may_grow(world, *PROCESSES):
            written = log.stat().st_size
            loop.wait_for_more(4)
            world.drop("ink", second)
            world.await_resident("ink", second)
            loop.wait_for_more(4)
            assert log.stat().st_size == written
        loop.wait_for_more(2)
    loop.check()
    assert world.draws("ink", second)


@pytest.fixture
def small_disk(world: World, versions: list[Version]) -> Iterator[Path]:
    """The folder of adapters as a file system of its own, with room for one file and a half."""
    path = world.service.loras
    size = 3 * len(versions[0].data) // 2
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def test_a_file_that_found_no_room_is_refused_and_taken_in_once_it_is_whole(
    small_disk: Path, world: World, versions: list[Version]
) -> None:
    first, second, *_ = versions
    (small_disk / "ink.safetensors").write_bytes(first.data)
    world.start_manager()
    world.await_resident("ink", first)
    with ImageLoop(world, "ink") as loop:
        with pytest.raises(OSError) as failure:
            (small_disk / "oil.safetensors").write_bytes(second.data)
        assert failure.value.errno == errno.ENOSPC
        refused = world.await_adapter("oil", lambda a: a.state is AdapterState.REFUSED)
        print(f"\n{refused.refusal_reason}")
        loop.wait_for_more(2)
        (small_disk / "oil.safetensors").unlink()
        (small_disk / "ink.safetensors").write_bytes(second.data)
        world.await_resident("ink", second)
        loop.wait_for_more(2)
    loop.check()
    world.path("ink").unlink()
