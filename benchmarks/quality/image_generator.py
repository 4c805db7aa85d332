"""Generates the images to measure, with the product's engine and with stock diffusers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks.quality.measures import pooled
from benchmarks.quality.store import Store, StoreEntry, fingerprint
from inference_server.adapters.segment import AdapterSegment
from inference_server.engine.engine import Engine
from inference_server.loading.load import load_model
from inference_server.loading.sources import open_source
from inference_server.model.kernels.low_rank import GatedAdapter
from inference_server.model.latents import noise, pack, to_bytes, unpack
from wuliart_contract.limits import IMAGE_SIZE
from wuliart_lora import parse_lora
from wuliart_lora.slot_image import build_image, module_shapes

STORED_EDGE = 512
"""Edge of the stored images: half the generated one, so that fine speckle is still there."""

Variant = Literal["turbo", "base", "stock"]
"""Our engine with the Turbo LoRA, our engine without, stock diffusers without."""


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """Inputs that determine one image."""

    variant: Variant
    steps: int
    text: str
    seed: int
    style: str = ""
    """Name of the style whose adapter is used."""


@dataclass(frozen=True, slots=True)
class Generated:
    """The result of generating one image."""

    image: Tensor | None
    """uint8 [3, STORED_EDGE, STORED_EDGE]; None after an error."""
    seconds: float
    """Time from prompt to pixels."""
    error: str = ""


class ImageGenerator:
    """Generates images, or reads them from the store; loads weights at first use.

    Args:
        checkpoint: The model, in diffusers layout.
        turbo: The Turbo LoRA; if None, the base generates the "turbo" images.
        styles: Folder of the style adapters.
        device: Device to generate on, in bf16 on a GPU; the stock pipeline is always float32.
        store: Store of the images.
    """

    def __init__(
        self,
        checkpoint: Path,
        turbo: Path | None,
        styles: Path,
        *,
        device: torch.device,
        store: Store,
    ) -> None:
        self.checkpoint, self.turbo, self.device, self.store = checkpoint, turbo, device, store
        self._dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self._styles = styles
        self._adapters: dict[str, GatedAdapter] = {}
        self._keys: dict[tuple[Variant, str], str] = {}

    def adapter_file(self, style: str) -> Path:
        """Returns the path of a style's adapter, which may be missing."""
        return self._styles / f"{style}.safetensors"

    def key(self, variant: Variant, style: str = "") -> str:
        """Returns the store's key of all images that the same weights generate."""
        if (variant, style) not in self._keys:
            paths = [self.checkpoint]
            if variant == "turbo" and self.turbo:
                paths.append(self.turbo)
            if style:
                paths.append(self.adapter_file(style))
            self._keys[variant, style] = fingerprint(
                paths, variant, style, self.device.type, str(self._dtype)
            )
        return self._keys[variant, style]

    def generate(self, spec: ImageSpec) -> Generated:
        """Generates an image. Errors are part of the result and are not stored.

        Raises:
            ModelError: The model or the Turbo LoRA cannot be loaded.
            LoraError: The style's adapter cannot be loaded.
        """
        key, name = self.key(spec.variant, spec.style), f"{spec.steps}:{spec.seed}:{spec.text}"
        if (entry := self.store.read(key, name)) and entry.image is not None:
            return Generated(torch.from_numpy(entry.image), entry.facts["seconds"])
        work = self._work(spec)
        began = time.perf_counter()
        try:
            pixels = work()
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            return Generated(None, time.perf_counter() - began, text)
        seconds = time.perf_counter() - began
        image = pooled(pixels.permute(2, 0, 1).float(), STORED_EDGE).round().to(torch.uint8)
        facts = asdict(spec) | {"seconds": seconds}
        self.store.write(key, name, StoreEntry(facts, image.numpy()))
        return Generated(image, seconds)

    def _work(self, spec: ImageSpec) -> Callable[[], Tensor]:
        """Loads all weights and returns a function that generates uint8 [1024, 1024, 3]."""
        if spec.variant == "stock":
            pipeline, engine = self._pipeline, self.base
            return lambda: _generate_stock(pipeline, engine, spec)
        engine = self._turbo_engine if spec.variant == "turbo" else self.base
        adapters = [self._adapter(engine, spec.style)] if spec.style else []
        return lambda: _generate(engine, spec, adapters)

    @cached_property
    def base(self) -> Engine:
        """The engine without the Turbo LoRA."""
        return self._engine(None)

    @cached_property
    def _turbo_engine(self) -> Engine:
        return self._engine(self.turbo) if self.turbo else self.base

    def _engine(self, turbo: Path | None) -> Engine:
        return Engine(load_model(open_source(self.checkpoint, turbo), self.device, self._dtype))

    @cached_property
    def _pipeline(self) -> Any:
        from diffusers import QwenImagePipeline

        pipeline = QwenImagePipeline.from_pretrained(self.checkpoint, dtype=torch.float32)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline.to(self.device)

    def _adapter(self, engine: Engine, style: str) -> GatedAdapter:
        """Loads a style's adapter, packed as by the LoRA manager, into a segment of its own."""
        if style not in self._adapters:
            rank = engine.model.adapter_capacity.max_rank
            layout = engine.model.layout(rank)
            data = self.adapter_file(style).read_bytes()
            parsed = parse_lora(data, module_shapes(layout), rank)
            image = build_image(parsed, layout, engine.model.conditioning.numpy())
            segment = AdapterSegment(layout, 1, self.device)
            segment.shared_bytes(0)[: len(image.data)] = torch.from_numpy(image.data)
            segment.stage(0, len(image.data))
            tensors = segment.tensors(0, image.packed_rank, image.sites)
            self._adapters[style] = GatedAdapter(tensors, 1.0)
        return self._adapters[style]


def _generate(engine: Engine, spec: ImageSpec, adapters: list[GatedAdapter]) -> Tensor:
    state = engine.begin(engine.encode(spec.text), spec.seed, spec.steps, adapters=adapters)
    for _ in range(spec.steps):
        engine.step([state])
    return engine.decode(state)


@torch.inference_mode()
def _generate_stock(pipeline: Any, engine: Engine, spec: ImageSpec) -> Tensor:
    """Generates with stock text encoder, transformer, scheduler; the engine's noise and decoder."""
    model = engine.model
    start = pack(noise(spec.seed, model.vae.config.z, model.latent_size, model.latent_size))
    latents = pipeline(
        spec.text,
        num_inference_steps=spec.steps,
        true_cfg_scale=1.0,
        height=IMAGE_SIZE,
        width=IMAGE_SIZE,
        latents=start[None],
        output_type="latent",
    ).images[0]
    pixels = model.vae.decode(unpack(latents.float(), model.latent_size, model.latent_size))[0]
    if not torch.isfinite(pixels).all():
        raise ValueError("the stock pipeline returned a non-finite value")
    return to_bytes(pixels.permute(1, 2, 0)).cpu()
