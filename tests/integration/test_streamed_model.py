"""A model in a budget smaller than itself generates the same image as one that lies there whole."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from inference_server.config import EMBEDDED_MODEL, EMBEDDED_TURBO
from inference_server.engine.engine import Engine
from inference_server.engine.memory_plan import Demand
from inference_server.errors import ModelError
from inference_server.loading.load import load_model
from inference_server.loading.memory_plan import RING_SLOTS
from inference_server.loading.model_plan import MemoryLimits
from inference_server.loading.sources import open_source

DEVICE = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
DTYPE = torch.float32
PROMPTS = ("a rocket on a purple background", "紫色背景上的火箭", "a rocket on a purple background")


def load(budget: int | None, idle: int | None = None) -> Engine:
    limits = MemoryLimits(budget, idle, 1, 4)
    source = open_source(EMBEDDED_MODEL, EMBEDDED_TURBO)
    return Engine(load_model(source, DEVICE, DTYPE, limits=limits))


def draw(engine: Engine, prompt: str, seed: int) -> torch.Tensor:
    drawing = engine.begin(engine.encode(prompt), seed, 3)
    for _ in range(3):
        engine.step([drawing])
    return drawing.latents.cpu()


@pytest.fixture(scope="module")
def whole() -> Engine:
    return load(None)


def least_for(demand: Demand) -> int:
    """The budget with every layer in host memory."""
    ring = RING_SLOTS * max(demand.block, demand.text_layer)
    return demand.always + demand.slots + demand.scratch + ring


@pytest.fixture(scope="module")
def demand(whole: Engine) -> Demand:
    """Of blocks that are streamed: they have no room for adapters."""
    return load(least_for(whole.model.plan.demand)).model.plan.demand


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_the_same_images_to_the_bit(whole: Engine, demand: Demand, share: float) -> None:
    assert demand.block < whole.model.plan.demand.block
    least = least_for(demand)
    engine = load(least + int(share * demand.blocks * demand.block), least - demand.scratch)
    plan = engine.model.plan
    assert plan.resident_blocks == 0 and not plan.text_resident
    assert plan.cached_blocks == int(share * demand.blocks)
    for seed, prompt in enumerate(PROMPTS):
        assert torch.equal(draw(engine, prompt, seed), draw(whole, prompt, seed))
        if seed:
            engine.rest()
    assert not engine.model.transformer.blocks.cache_allocated


def test_a_budget_too_small_is_refused() -> None:
    with pytest.raises(ModelError, match="too small"):
        load(1_000_000)


def test_a_image_in_tiles_is_the_image(whole: Engine) -> None:
    drawing = whole.begin(whole.encode(PROMPTS[0]), 1, 4)
    for _ in range(4):
        whole.step([drawing])
    plan = dataclasses.replace(whole.model.plan, tiles=True)
    tiled = Engine(dataclasses.replace(whole.model, plan=plan))
    one, four = (engine.decode(drawing).float() for engine in (whole, tiled))
    assert 0 < (one - four).square().mean() < 255**2 / 10**3.8


def test_a_prompt_encoded_beside_a_step_is_the_prompt_and_the_step_the_step(
    whole: Engine, demand: Demand
) -> None:
    least = least_for(demand)
    engine = load(least + demand.block, least - demand.scratch)
    for one in (whole, engine):
        one.encode(PROMPTS[0])
    drawings = [one.begin(one.encode(PROMPTS[0]), 1, 2) for one in (whole, engine)]
    prompts = ["a fox on a red background", "a bus"]
    engine.step([drawings[1]], prompts)
    whole.step([drawings[0]])
    assert torch.equal(drawings[0].latents, drawings[1].latents)
    for prompt in prompts:
        assert engine.is_encoded(prompt) and not whole.is_encoded(prompt)
        assert torch.equal(engine.encode(prompt).states, whole.encode(prompt).states)
