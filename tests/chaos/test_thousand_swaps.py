"""One file is rewritten again and again while images are generated in its adapter."""

from __future__ import annotations

import random
import statistics

import psutil

from tests.chaos.conftest import Size
from tests.chaos.image_loop import ImageLoop
from tests.chaos.world import Version, World

WARM_UP = 0.2
"""Share of the swaps after which memory must not grow any more."""

GROWTH_BYTES = 64 << 20
"""More than an allocator's moods, far less than a leak of an image or an image per swap."""

RUSH = 0.1
"""Share of the swaps that do not wait for the one before to be in a slot."""

DRAWN = 0.5
"""Share of the swaps that an image is awaited after; the others follow within milliseconds."""

IDLE_IMAGES = 20


def test_every_image_is_that_of_the_version_it_names_and_memory_stays_flat(
    world: World, versions: list[Version], size: Size
) -> None:
    choose = random.Random(20261124)
    current = versions[0]
    world.drop("ink", current)
    world.start_manager()
    world.await_resident("ink", current)
    with ImageLoop(world, "ink") as idle:
        idle.wait_for_more(IDLE_IMAGES)
    idle.check()

    processes = [psutil.Process(world.service.processes[n].pid) for n in ("server", "manager")]
    memory: list[list[int]] = []
    with ImageLoop(world, "ink") as loop:
        for _ in range(size.swaps):
            before = current
            current = choose.choice([version for version in versions if version is not current])
            world.drop("ink", current)
            if choose.random() < RUSH:
                # There and back again, with no time to look in between.
                current = before
                world.drop("ink", current)
            world.await_resident("ink", current)
            if choose.random() < DRAWN:
                loop.wait_for_more(1)
            memory.append([process.memory_info().rss for process in processes])
        loop.wait_for_more(4)
    loop.check()
    assert len(loop.versions) > 1, "the adapter never changed under an image"
    assert world.draws("ink", current)
    world.service.check()

    warm = max(1, int(WARM_UP * len(memory)))
    growth = [max(after) - max(first) for first, after in _split(memory, warm)]
    print(
        f"\n{size.swaps} swaps: {loop.images} images, {len(loop.wrong)} wrong, "
        f"{len(loop.errors)} failed; peak memory after warm-up against before: "
        f"server {growth[0] / 1e6:+.1f} MB, manager {growth[1] / 1e6:+.1f} MB; "
        f"step while idle {_spread(idle.steps)}, while swapping {_spread(loop.steps)}"
    )
    assert max(growth) < GROWTH_BYTES


def _split(memory: list[list[int]], warm: int) -> list[tuple[list[int], list[int]]]:
    """Returns, for each process, its sizes during the warm-up and after it."""
    return [(list(sizes[:warm]), list(sizes[warm:])) for sizes in zip(*memory, strict=True)]


def _spread(seconds: list[float]) -> str:
    p99 = statistics.quantiles(seconds, n=100)[98]
    return f"{1000 * statistics.median(seconds):.1f} ms (p99 {1000 * p99:.1f} ms)"
