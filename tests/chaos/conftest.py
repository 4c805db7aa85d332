"""One server for all chaos tests: that it outlives every one of them is part of what they show."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from inference_server.loading.load import load_model
from inference_server.loading.sources import open_source
from tests.chaos.world import RANK, Version, World
from tests.support.small_model import make_checkpoint
from wuliart_lora.slot_layout import SegmentLayout

VERSIONS = 4


class Size(NamedTuple):
    """How much the long tests do."""

    swaps: int
    kills: int
    restarts: int


@pytest.fixture(scope="session")
def size() -> Size:
    """Small, unless WULIART_CHAOS=full (`make chaos`)."""
    return Size(1000, 200, 10) if os.environ.get("WULIART_CHAOS") == "full" else Size(12, 8, 1)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("small") / "model")


@pytest.fixture(scope="session")
def layout(checkpoint: Path) -> SegmentLayout:
    model = load_model(open_source(checkpoint, None), torch.device("cpu"), torch.float32)
    return model.layout(RANK)


@pytest.fixture(scope="session")
def make_world(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, layout: SegmentLayout
) -> Iterator[Callable[[], World]]:
    """Starts servers that are stopped at the end; each is ready and has no manager."""
    worlds: list[World] = []

    def make() -> World:
        world = World(tmp_path_factory.mktemp("world"), checkpoint, layout)
        worlds.append(world)
        world.service.start_server()
        world.service.wait_until_ready()
        return world

    yield make
    for world in worlds:
        world.close()


@pytest.fixture(scope="session")
def shared(make_world: Callable[[], World]) -> World:
    """The one server, with the golden image of every version."""
    world = make_world()
    world.start_manager()
    world.wait_attached()
    world.make_golden([world.version(seed) for seed in range(VERSIONS)])
    world.clear()
    return world


@pytest.fixture(scope="session")
def versions(shared: World) -> list[Version]:
    """Contents of an adapter whose golden images are known."""
    return [shared.version(seed) for seed in range(VERSIONS)]


@pytest.fixture
def world(shared: World) -> Iterator[World]:
    """The one server with an empty folder and no manager; still the same one afterwards."""
    life = shared.life
    yield shared
    shared.clear()
    assert shared.life == life, "the server was started anew"
