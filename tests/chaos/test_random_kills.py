"""A supervisor starts the manager again and again, and something kills it again and again."""

from __future__ import annotations

import random
import statistics
import time
from itertools import cycle

from tests.chaos.conftest import Size
from tests.chaos.image_loop import ImageLoop
from tests.chaos.world import Version, World

IN_A_SWAP = 0.7
"""Share of the kills that come while a file is being taken in; the rest come at any time."""

SWAP_SECONDS = 0.04
START_SECONDS = 0.6

STATED_SECONDS = 10.0
"""The adapter's newest version is back after that long; 1 s is aimed at and reported."""


def test_after_every_kill_no_image_is_wrong_and_the_newest_version_comes_back(
    world: World, versions: list[Version], size: Size
) -> None:
    choose = random.Random(20261124)
    turns = cycle(versions)
    kept, torn = next(turns), next(turns)
    world.drop("kept", kept)
    world.drop("torn", torn)
    world.start_manager()
    world.await_resident("kept", kept)
    world.await_resident("torn", torn)
    attached: list[float] = []
    back: list[float] = []
    with ImageLoop(world, "torn", "kept") as loop:
        for _ in range(size.kills):
            torn = next(turns)
            if choose.random() < IN_A_SWAP:
                world.drop("torn", torn)
                time.sleep(choose.uniform(0, SWAP_SECONDS))
            else:
                # At any time of a fresh manager's life, its start included.
                world.service.kill("manager")
                world.start_manager()
                world.drop("torn", torn)
                time.sleep(choose.uniform(0, START_SECONDS))
            world.service.kill("manager")
            killed = time.monotonic()
            world.wait_attached(False)
            world.start_manager()
            world.wait_attached()
            attached.append(time.monotonic() - killed)
            world.await_resident("torn", torn)
            back.append(time.monotonic() - killed)
    loop.check()
    assert world.draws("torn", torn)
    assert world.draws("kept", kept)
    world.service.check()
    assert max(back) < STATED_SECONDS
    print(
        f"\n{size.kills} kills: {loop.images} images, {len(loop.wrong)} wrong, "
        f"{len(loop.errors)} failed; attached again after {statistics.median(attached):.2f} s "
        f"(worst {max(attached):.2f} s), newest version back after {statistics.median(back):.2f} s "
        f"(worst {max(back):.2f} s)"
    )
