"""The manager dies by SIGKILL at every step of the protocol while images are generated."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from signal import SIGKILL

import pytest

from tests.chaos.image_loop import ImageLoop
from tests.chaos.manager_at import AT_START, ManagerStep
from tests.chaos.world import PATIENCE, Version, World
from wuliart_client import AdapterState, Unavailable

IN_SESSION = [
    step for step in ManagerStep if step not in AT_START and step is not ManagerStep.PROMOTED
]


def await_death(world: World) -> None:
    """The manager has killed itself; its place is free for the next."""
    manager = world.service.processes.pop("manager")
    assert manager.wait(PATIENCE) == -SIGKILL


def test_at_every_step_of_a_swap_no_image_is_wrong_and_the_swap_is_made_up_for(
    world: World, versions: list[Version]
) -> None:
    turns = cycle(versions)
    kept, torn = next(turns), next(turns)
    world.drop("kept", kept)
    world.drop("torn", torn)
    world.start_manager()
    world.await_resident("kept", kept)
    world.await_resident("torn", torn)
    world.service.kill("manager")
    with ImageLoop(world, "torn", "kept") as loop:
        for step in (*AT_START, *IN_SESSION):
            if step in AT_START:
                world.arm.touch()
            world.start_manager_at(step, SIGKILL)
            if step not in AT_START:
                # What the one before it could not end, this one does.
                world.await_resident("torn", torn)
                world.await_resident("kept", kept)
                world.wait_attached()
                world.arm.touch()
                torn = next(turns)
                world.drop("torn", torn)
            await_death(world)
            assert not world.arm.exists(), f"the manager did not die at step {step}"
            loop.wait_for_more(2)
        world.start_manager()
        world.await_resident("torn", torn)
        loop.wait_for_more(4)
    loop.check()
    assert world.draws("torn", torn)
    assert world.draws("kept", kept)


def test_a_image_that_waits_for_its_adapter_gets_it_from_the_next_manager(
    world: World, versions: list[Version]
) -> None:
    # One more than there are slots: the first one dropped is not resident any more.
    names = [f"adapter{n}" for n in range(world.client.info().limits.adapter_slots + 1)]
    world.start_manager_at(ManagerStep.PROMOTED, SIGKILL)
    world.wait_attached()
    for name in names:
        world.drop(name, versions[0])
        world.await_resident(name, versions[0])
    cold = names[0]
    world.await_adapter(cold, lambda adapter: adapter.state is AdapterState.AVAILABLE)
    world.arm.touch()
    with ThreadPoolExecutor(1) as beside:
        drawn = beside.submit(world.draws, cold, versions[0])
        await_death(world)
        assert not drawn.done()
        world.start_manager()
        assert drawn.result(PATIENCE)


def test_a_image_that_waits_for_its_adapter_in_vain_fails_by_name(
    world: World, versions: list[Version]
) -> None:
    names = [f"adapter{n}" for n in range(world.client.info().limits.adapter_slots + 1)]
    world.start_manager_at(ManagerStep.PROMOTED, SIGKILL)
    world.wait_attached()
    for name in names:
        world.drop(name, versions[0])
        world.await_resident(name, versions[0])
    world.await_adapter(names[0], lambda adapter: adapter.state is AdapterState.AVAILABLE)
    world.arm.touch()
    with pytest.raises(Unavailable, match="no LoRA manager"):
        world.image(names[0])
    await_death(world)
