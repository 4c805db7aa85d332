"""The folder of adapters is moved away while images are generated in them, and comes back."""

from __future__ import annotations

import time

import pytest

from tests.chaos.image_loop import ImageLoop
from tests.chaos.leaks import nothing_leaks
from tests.chaos.world import Version, World
from wuliart_client import AdapterState

AWAY_SECONDS = 5.0
"""More than two of the manager's looks."""


@pytest.mark.parametrize("emptied", [False, True], ids=["gone", "an empty one instead"])
def test_adapters_stay_while_their_folder_is_away_and_follow_it_when_it_is_back(
    world: World, versions: list[Version], emptied: bool
) -> None:
    first, second, third, _ = versions
    world.drop("ink", first)
    world.drop("oil", second)
    world.start_manager()
    world.await_resident("ink", first)
    world.await_resident("oil", second)
    folder = world.service.loras
    away = folder.with_name("away")
    with ImageLoop(world, "ink", "oil") as loop, nothing_leaks(world, "server", "manager"):
        folder.rename(away)
        if emptied:
            folder.mkdir()
        began = time.monotonic()
        while time.monotonic() - began < AWAY_SECONDS:
            loop.wait_for_more(2)
        states = {adapter.name: adapter.state for adapter in world.client.adapters()}
        assert states == dict.fromkeys(("ink", "oil"), AdapterState.RESIDENT)
        if emptied:
            folder.rmdir()
        away.rename(folder)
        back = time.monotonic()
        world.drop("ink", third)
        world.await_resident("ink", third)
        print(f"\na new version is taken in {time.monotonic() - back:.2f} s after the return")
        loop.wait_for_more(2)
    loop.check()
    assert world.draws("ink", third)
    assert world.draws("oil", second)
