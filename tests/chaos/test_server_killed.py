"""The server dies by SIGKILL while the manager has its memory mapped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.chaos.conftest import Size
from tests.chaos.world import Version, World


def mapped_segments(pid: int) -> int:
    """How many adapter segments, dead ones included, a process keeps in memory."""
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return len({line.split()[4] for line in maps if "memfd:wuliart-adapter-segment" in line})


def test_the_memory_of_a_dead_server_is_let_go_before_the_next_one_needs_its_own(
    make_world: Callable[[], World], shared: World, versions: list[Version], size: Size
) -> None:
    world = make_world()
    world.golden = shared.golden
    world.start_manager()
    manager = world.service.processes["manager"]
    for n, version in enumerate(versions[:3]):
        world.drop(f"adapter{n}", version)
    lives = set()
    for life in range(1 + size.restarts):
        if life:
            world.service.kill("server")
            world.until(lambda: mapped_segments(manager.pid) == 0, "the dead segment unmapped")
            world.service.start_server()
            world.service.wait_until_ready()
        for n, version in enumerate(versions[:3]):
            world.await_resident(f"adapter{n}", version)
            assert world.draws(f"adapter{n}", version)
        assert mapped_segments(manager.pid) == 1
        lives.add(world.life)
    assert len(lives) == 1 + size.restarts
    assert manager.poll() is None, "the manager had to be started again"
