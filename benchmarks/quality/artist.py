"""Generates the images that are measured, with the product's engine and with stock diffusers.

Owns which weights generate what and what of an image is kept. Knows nothing of what images should
look like.
"""

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
from benchmarks.quality.references import DRAWN
from benchmarks.quality.store import Kept, Store, fingerprint
from inference_server.adapters.segment import AdapterSegment
from inference_server.engine.engine import Engine
from inference_server.loading.load import load_model
from inference_server.loading.sources import open_source
from inference_server.model.kernels.low_rank import GatedAdapter
from inference_server.model.latents import noise, pack, to_bytes, unpack
from wuliart_contract.limits import IMAGE_SIZE
from wuliart_lora import parse_lora
from wuliart_lora.slot_image import build_image, module_shapes

Hand = Literal["turbo", "base", "stock"]
"""Our engine with the Turbo LoRA, our engine without, stock diffusers without."""


@dataclass(frozen=True, slots=True)
class Order:
    """One image to generate."""

    hand: Hand
    steps: int
    text: str
    seed: int
    style: str = ""


@dataclass(frozen=True, slots=True)
class Drawn:
    """What came of an order."""

    image: Tensor | None
    """uint8 [3, 256, 256]; None after an error."""
    seconds: float
    """Prompt to pixels."""
    error: str = ""


class Artist:
    """Generates orders or finds them in the store; loads what an order needs when it needs it.

    Args:
        checkpoint: in diffusers layout.
        turbo: the Turbo LoRA; None generates "turbo" orders with the base.
        styles: folder of the styles' files.
        device: where to generate, in bf16 on a GPU; the stock pipeline always in float32.
        store: where images are kept.
    """

    def __init__(
        self,
        checkpoint: Path,
        turbo: Path | None,
        styles: Path,
        device: torch.device,
        store: Store,
    ) -> None:
        self.checkpoint, self.turbo, self.device, self.store = checkpoint, turbo, device, store
        self._dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self._styles = styles
        self._adapters: dict[str, GatedAdapter] = {}
        self._keys: dict[tuple[Hand, str], str] = {}

    def style_file(self, style: str) -> Path:
        """Where a style's file lies, or would."""
        return self._styles / f"{style}.safetensors"

    def key(self, hand: Hand, style: str = "") -> str:
        """The store's key of all orders that the same weights generate."""
        if (hand, style) not in self._keys:
            paths = [self.checkpoint]
            if hand == "turbo" and self.turbo:
                paths.append(self.turbo)
            if style:
                paths.append(self.style_file(style))
            self._keys[hand, style] = fingerprint(
                paths, hand, style, self.device.type, str(self._dtype)
            )
        return self._keys[hand, style]

    def draw(self, order: Order) -> Drawn:
        """The image of an order. Errors of generating are part of the answer and are not kept.

        Raises:
            ModelError, LoraError: weights cannot be loaded.
        """
        key, name = self.key(order.hand, order.style), f"{order.steps}:{order.seed}:{order.text}"
        if (kept := self.store.read(key, name)) and kept.image is not None:
            return Drawn(torch.from_numpy(kept.image), kept.facts["seconds"])
        work = self._work(order)
        began = time.perf_counter()
        try:
            pixels = work()
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            return Drawn(None, time.perf_counter() - began, text)
        seconds = time.perf_counter() - began
        image = pooled(pixels.permute(2, 0, 1).float(), DRAWN).round().to(torch.uint8)
        facts = asdict(order) | {"seconds": seconds}
        self.store.write(key, name, Kept(facts, image.numpy()))
        return Drawn(image, seconds)

    def _work(self, order: Order) -> Callable[[], Tensor]:
        """What generates the order to uint8 [1024, 1024, 3]; everything it needs is loaded."""
        if order.hand == "stock":
            pipeline, engine = self._pipeline, self.base
            return lambda: _draw_stock(pipeline, engine, order)
        engine = self._turbo_engine if order.hand == "turbo" else self.base
        adapters = [self._adapter(engine, order.style)] if order.style else []
        return lambda: _draw(engine, order, adapters)

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
        """A style, packed as the LoRA manager packs it, in a segment of its own."""
        if style not in self._adapters:
            rank = engine.model.adapter_capacity.max_rank
            layout = engine.model.layout(rank)
            data = self.style_file(style).read_bytes()
            parsed = parse_lora(data, module_shapes(layout), rank)
            image = build_image(parsed, layout, engine.model.conditioning.numpy())
            segment = AdapterSegment(layout, 1, self.device)
            segment.shared_bytes(0)[: len(image.data)] = torch.from_numpy(image.data)
            segment.stage(0, len(image.data))
            tensors = segment.tensors(0, image.packed_rank, image.sites)
            self._adapters[style] = GatedAdapter(tensors, 1.0)
        return self._adapters[style]


def _draw(engine: Engine, order: Order, adapters: list[GatedAdapter]) -> Tensor:
    drawing = engine.begin(engine.encode(order.text), order.seed, order.steps, adapters=adapters)
    for _ in range(order.steps):
        engine.step([drawing])
    return engine.decode(drawing)


@torch.inference_mode()
def _draw_stock(pipeline: Any, engine: Engine, order: Order) -> Tensor:
    """Stock text encoder, transformer and scheduler; the engine's noise and decoder."""
    model = engine.model
    start = pack(noise(order.seed, model.vae.config.z, model.latent_size, model.latent_size))
    latents = pipeline(
        order.text,
        num_inference_steps=order.steps,
        true_cfg_scale=1.0,
        height=IMAGE_SIZE,
        width=IMAGE_SIZE,
        latents=start[None],
        output_type="latent",
    ).images[0]
    pixels = model.vae.decode(unpack(latents.float(), model.latent_size, model.latent_size))[0]
    if not torch.isfinite(pixels).all():
        raise ValueError("the stock pipeline made a non-finite value")
    return to_bytes(pixels.permute(1, 2, 0)).cpu()
