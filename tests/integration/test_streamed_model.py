"""A model in a budget smaller than itself generates the same image as a resident one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
import torch

from inference_server.adapters.segment import AdapterSegment
from inference_server.config import EMBEDDED_MODEL, EMBEDDED_TURBO
from inference_server.engine.engine import Engine
from inference_server.engine.memory_plan import Demand
from inference_server.errors import ModelError
from inference_server.loading.load import load_model
from inference_server.loading.memory_budget import NETWORK_SLOTS, RING_SLOTS
from inference_server.loading.model_plan import MemoryLimits
from inference_server.loading.sources import open_source
from inference_server.model.kernels.low_rank import GatedAdapter
from tests.support.lora_files import pack
from tests.support.other_forms import differences, lokr
from wuliart_lora import parse_lora
from wuliart_lora.slot_image import build_image, module_shapes, norm_features

DEVICE = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
DTYPE = torch.float32
PROMPTS = ("a rocket on a purple background", "紫色背景上的火箭", "a rocket on a purple background")


def load(budget: int | None, idle: int | None = None) -> Engine:
    limits = MemoryLimits(budget, idle, 1, 4)
    source = open_source(EMBEDDED_MODEL, EMBEDDED_TURBO)
    return Engine(load_model(source, DEVICE, DTYPE, limits=limits))


def generate(
    engine: Engine, prompt: str, seed: int, adapters: Sequence[GatedAdapter] = ()
) -> torch.Tensor:
    latent_image = engine.begin(engine.encode(prompt), seed, 3, adapters=adapters)
    for _ in range(3):
        engine.step([latent_image])
    return latent_image.latents.cpu()


@pytest.fixture(scope="module")
def whole() -> Engine:
    return load(None)


def least_for(demand: Demand) -> int:
    """Returns the smallest budget: every layer in host memory."""
    ring = RING_SLOTS * max(demand.block, demand.text_layer)
    return demand.always + demand.slots + demand.scratch + ring


@pytest.fixture(scope="module")
def demand(whole: Engine) -> Demand:
    """The demand with streamed blocks, which have no spare columns."""
    return load(least_for(whole.model.plan.demand)).model.plan.demand


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6])
def test_streamed_images_are_bit_identical(whole: Engine, demand: Demand, share: float) -> None:
    assert demand.block < whole.model.plan.demand.block
    least = least_for(demand)
    engine = load(least + int(share * demand.blocks * demand.block), least - demand.scratch)
    plan = engine.model.plan
    assert plan.resident_blocks == 0 and plan.resident_text_layers == 0
    assert plan.cached_blocks == int(share * demand.blocks)
    for seed, prompt in enumerate(PROMPTS):
        assert torch.equal(generate(engine, prompt, seed), generate(whole, prompt, seed))
        if seed:
            engine.rest()
    assert not engine.model.transformer.blocks.cache_allocated


@pytest.mark.parametrize("kept", [1, 3])
def test_a_text_encoder_that_is_partly_resident_encodes_as_a_whole_one(
    whole: Engine, demand: Demand, kept: int
) -> None:
    """Where all blocks fit, the rest holds layers of the text encoder; the ring has two slots."""
    slot = max(demand.block, demand.text_layer)
    idle = demand.always + demand.slots + NETWORK_SLOTS * slot + kept * demand.text_layer
    engine = load(idle + demand.scratch + demand.blocks * demand.block, idle)
    plan = engine.model.plan
    assert plan.resident_text_layers == kept < demand.text_layers
    assert (plan.resident_blocks, plan.cached_blocks) == (0, demand.blocks)
    assert plan.ring == NETWORK_SLOTS * slot
    for seed, prompt in enumerate(PROMPTS):
        assert torch.equal(engine.encode(prompt).states, whole.encode(prompt).states)
        assert torch.equal(generate(engine, prompt, seed), generate(whole, prompt, seed))
        engine.rest()
    later = "a bird on a green background"
    image = engine.begin(engine.encode(PROMPTS[0]), 1, 2)
    engine.step([image], [later])
    assert torch.equal(engine.encode(later).states, whole.encode(later).states)


def test_a_lokr_and_differences_act_on_streamed_blocks_as_on_resident_ones(
    whole: Engine, demand: Demand
) -> None:
    layout = whole.model.layout(4)
    changes = lokr(layout, layout.modules, size=0.1)
    changes |= differences(layout, layout.modules, layout.norms, size=0.05)
    adapter = parse_lora(
        pack(changes.tensors), module_shapes(layout), 4, norms=norm_features(layout)
    )
    packed = build_image(adapter, layout, whole.model.conditioning.numpy())
    segment = AdapterSegment(layout, 1, DEVICE)
    segment.shared_bytes(0)[: packed.data.size] = torch.from_numpy(packed.data)
    segment.stage(0, packed.data.size)
    tensors = segment.tensors(0, packed.packed_rank, packed.sites, packed.kronecker)
    least = least_for(demand)
    engine = load(least, least - demand.scratch)
    assert engine.model.plan.resident_blocks == 0
    plain, *images = (
        generate(one, PROMPTS[0], 1, [GatedAdapter(tensors, 0.7)][:acting])
        for one, acting in ((whole, 0), (whole, 1), (engine, 1))
    )
    assert float((images[0] - plain).norm() / plain.norm()) > 0.01
    assert torch.equal(*images)


def test_a_budget_that_is_too_small_is_an_error() -> None:
    with pytest.raises(ModelError, match="too small"):
        load(1_000_000)


def test_an_image_decoded_in_tiles_differs_little(whole: Engine) -> None:
    latent_image = whole.begin(whole.encode(PROMPTS[0]), 1, 4)
    for _ in range(4):
        whole.step([latent_image])
    plan = dataclasses.replace(whole.model.plan, tiles=True)
    tiled = Engine(dataclasses.replace(whole.model, plan=plan))
    one, four = (engine.decode(latent_image).float() for engine in (whole, tiled))
    assert 0 < (one - four).square().mean() < 255**2 / 10**3.8


def test_encoding_a_prompt_during_a_step_changes_neither(whole: Engine, demand: Demand) -> None:
    least = least_for(demand)
    engine = load(least + demand.block, least - demand.scratch)
    for one in (whole, engine):
        one.encode(PROMPTS[0])
    images = [one.begin(one.encode(PROMPTS[0]), 1, 2) for one in (whole, engine)]
    prompts = ["a fox on a red background", "a bus"]
    engine.step([images[1]], prompts)
    whole.step([images[0]])
    assert torch.equal(images[0].latents, images[1].latents)
    for prompt in prompts:
        assert engine.is_encoded(prompt) and not whole.is_encoded(prompt)
        assert torch.equal(engine.encode(prompt).states, whole.encode(prompt).states)
