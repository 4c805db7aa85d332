"""Whole images against the stock `QwenImagePipeline` (and peft) on the embedded checkpoint.

Same weights, noise and sigmas, in float32: final latents within 1e-3 relative, and where they are
decoded as well (on a CPU stock takes ten seconds for it), PSNR >= 50 dB.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import QwenImagePipeline

from inference_server.adapters.segment import AdapterSegment
from inference_server.config import EMBEDDED_MODEL
from inference_server.engine.engine import Engine
from inference_server.engine.latent_image import LatentImage
from inference_server.loading.load import load_model
from inference_server.loading.sources import open_source
from inference_server.model.kernels.low_rank import GatedAdapter
from tests.support.lora_files import make_lora, pack
from tests.support.other_forms import Changes, differences, lokr
from wuliart_lora import parse_lora
from wuliart_lora.slot_image import build_image, module_shapes, norm_features
from wuliart_lora.slot_layout import LowRankSite, SegmentLayout

CPU = torch.device("cpu")
PROMPT = "a red lighthouse 在海边 at dusk"
SEED = 7


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(load_model(open_source(EMBEDDED_MODEL, None), CPU, torch.float32))


@pytest.fixture(scope="module")
def pipeline() -> QwenImagePipeline:
    pipe = QwenImagePipeline.from_pretrained(EMBEDDED_MODEL, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@dataclass
class Case:
    """Adapters as (file, weight), the number of steps, and if the image is decoded too.

    Files of `merged` are in forms that stock diffusers does not read; there, what they mean is
    added to its weights.
    """

    loras: Sequence[tuple[bytes, float]] = ()
    steps: int = 4
    decoded: bool = False
    merged: Sequence[tuple[Changes, float]] = ()

    @property
    def files(self) -> list[tuple[bytes, float]]:
        """All files, with weights."""
        return [*self.loras, *((pack(c.tensors), weight) for c, weight in self.merged)]


@contextmanager
def merged(pipe: QwenImagePipeline, case: Case) -> Iterator[None]:
    parameters = dict(pipe.transformer.named_parameters())
    before = {name: parameters[name].detach().clone() for c, _ in case.merged for name in c.added}
    with torch.no_grad():
        for changes, weight in case.merged:
            for name, added in changes.added.items():
                parameters[name] += (weight * torch.from_numpy(added)).float()
        try:
            yield
        finally:
            for name, value in before.items():
                parameters[name].copy_(value)


def generate_stock(
    pipe: QwenImagePipeline, case: Case, folder: Path
) -> tuple[torch.Tensor, np.ndarray | None]:
    with merged(pipe, case):
        return generate_merged(pipe, case, folder)


def generate_merged(
    pipe: QwenImagePipeline, case: Case, folder: Path
) -> tuple[torch.Tensor, np.ndarray | None]:
    latents: list[torch.Tensor] = []

    def keep(_: object, __: int, ___: object, tensors: dict) -> dict:
        latents.append(tensors["latents"][0])
        return {}

    names = []
    for index, (data, _) in enumerate(case.loras):
        path = folder / f"{index}.safetensors"
        path.write_bytes(data)
        pipe.load_lora_weights(path, adapter_name=f"a{index}")
        names.append(f"a{index}")
    if names:
        pipe.set_adapters(names, [weight for _, weight in case.loras])
    try:
        image = pipe(
            PROMPT,
            num_inference_steps=case.steps,
            true_cfg_scale=1.0,
            height=1024,
            width=1024,
            max_sequence_length=512,
            generator=torch.Generator().manual_seed(SEED),
            callback_on_step_end=keep,
            output_type="np" if case.decoded else "latent",
        ).images[0]
    finally:
        if names:
            pipe.unload_lora_weights()
    return latents[-1], np.round(image * 255) if case.decoded else None


def generate_ours(engine: Engine, case: Case) -> LatentImage:
    layout = engine.model.layout(max_rank=16)
    segment = AdapterSegment(layout, len(case.files) + 1, CPU)
    adapters = [
        GatedAdapter(fill(segment, slot, data, engine), weight)
        for slot, (data, weight) in enumerate(case.files)
    ]
    latent_image = engine.begin(engine.encode(PROMPT), SEED, case.steps, adapters=adapters)
    for _ in range(case.steps):
        engine.step([latent_image])
    return latent_image


def fill(segment: AdapterSegment, slot: int, data: bytes, engine: Engine):
    layout = segment.layout
    max_rank, norms = layout.parameters.max_rank, norm_features(layout)
    adapter = parse_lora(data, module_shapes(layout), max_rank, norms=norms)
    image = build_image(adapter, layout, engine.model.conditioning.numpy())
    segment.shared_bytes(slot)[: len(image.data)] = torch.from_numpy(image.data)
    segment.stage(slot, len(image.data))
    assert segment.checksum(slot, len(image.data)) == image.checksum
    return segment.tensors(slot, image.packed_rank, image.sites, image.kronecker)


def relative(ours: torch.Tensor, stock: torch.Tensor) -> float:
    return float((ours - stock).norm() / stock.norm())


def psnr(ours: np.ndarray, stock: np.ndarray) -> float:
    error = float(np.mean((ours - stock) ** 2))
    return 10 * np.log10(255**2 / max(error, 1e-9))


def modules_of(layout: SegmentLayout, *, modulation: bool) -> list[str]:
    return [
        module
        for module, (site, _) in layout.modules.items()
        if isinstance(site, LowRankSite) or modulation
    ]


def cases(layout: SegmentLayout) -> dict[str, Case]:
    products = modules_of(layout, modulation=False)
    everything = modules_of(layout, modulation=True)
    only_modulation = [m for m in everything if m not in products]

    def lora(modules: list[str], rank: int, seed: int, scale: float = 0.05) -> bytes:
        return make_lora(layout, rank=rank, modules=modules, seed=seed, scale=scale)

    return {
        "base, 1 step": Case(steps=1),
        "base, 4 steps": Case(decoded=True),
        "one adapter": Case([(lora(products, 8, 1), 1.0)], steps=2),
        "two weighted adapters": Case([(lora(products, 4, 2), 0.7), (lora(products, 16, 3), -4.0)]),
        "modulation only": Case([(lora(only_modulation, 8, 4), 0.8)], steps=3),
        "everything, twice": Case(
            [(lora(everything, 16, 5), 0.5), (lora(everything, 2, 6), 1.5)], steps=2, decoded=True
        ),
        "LoKr": Case(merged=[(lokr(layout, everything, size=0.1), 0.8)], steps=2, decoded=True),
        "LoKr beside LoRA": Case(
            [(lora(everything, 4, 7), 1.0)],
            steps=2,
            merged=[(lokr(layout, products, second_rank=2, alpha=1, scale=0.5, size=0.2), -2.0)],
        ),
        "biases and norms": Case(
            merged=[(differences(layout, everything, layout.norms, size=0.05), 1.5)],
            steps=2,
            decoded=True,
        ),
        "all in one file, and again": Case(
            merged=[
                (
                    lokr(layout, everything, size=0.08)
                    | differences(layout, products, [], size=0.05),
                    1.0,
                ),
                (differences(layout, [], layout.norms, size=0.1, seed=1), -0.5),
            ],
            steps=2,
        ),
    }


@pytest.mark.parametrize(
    "name",
    [
        "base, 1 step",
        "base, 4 steps",
        "one adapter",
        "two weighted adapters",
        "modulation only",
        "everything, twice",
        "LoKr",
        "LoKr beside LoRA",
        "biases and norms",
        "all in one file, and again",
    ],
)
def test_image(name: str, engine: Engine, pipeline: QwenImagePipeline, tmp_path: Path) -> None:
    case = cases(engine.model.layout(max_rank=16))[name]
    stock_latents, stock_pixels = generate_stock(pipeline, case, tmp_path)
    latent_image = generate_ours(engine, case)
    error = relative(latent_image.latents, stock_latents)
    print(f"{name}: latents {error:.1e}")
    assert error < 1e-3
    if stock_pixels is not None:
        decibels = psnr(engine.decode(latent_image).numpy().astype(np.float32), stock_pixels)
        print(f"{name}: image {decibels:.1f} dB")
        assert decibels >= 50
    if case.files:
        plain = generate_ours(engine, Case(steps=case.steps))
        # Rules out that both pipelines ignore the adapter.
        assert relative(plain.latents, stock_latents) > 0.01
