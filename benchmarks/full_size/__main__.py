"""The engine's parts at Qwen-Image's real size with random weights, on one GPU, against stock.

`python -m benchmarks.full_size [SECTION ...] [--out FILE]`: a line for each figure as it is
measured, then one JSON line. Needs no checkpoint, and an H200: stock and ours side by side take
85 GB.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import QwenImageTransformer2DModel
from torch import Tensor

from benchmarks.full_size.decode import decode
from benchmarks.full_size.kernel_classes import breakdown, milliseconds
from benchmarks.full_size.quantized_blocks import per_block
from benchmarks.full_size.random_model import full_demand
from inference_server.loading.memory_plan import make_plan
from inference_server.loading.memory_sizes import streaming_of
from inference_server.model.modulation import ModulationTable, conditioning
from inference_server.model.offload.layers import Streaming
from inference_server.model.offload.pinned_memory import host_memory
from inference_server.model.schedule import FAMILIES, ScheduleTable
from inference_server.model.transformer import ImageInputs, Transformer
from inference_server.model.transformer_weights import TransformerConfig
from inference_server.model.weights.packing import Fields
from inference_server.model.weights.transformer import (
    block_fields,
    block_views,
    fill_block,
    load_transformer,
    read_edges,
)
from inference_server.weight_kind import WeightKind

TEXT_TOKENS = 80
GRID = (64, 64)
BUDGET, IDLE = 18_700_000_000, 11_200_000_000
"""The mission's figures for a 24 GB card."""

Figures = dict[str, float]


class Bench:
    """Stock and our transformer with the same random weights."""

    def __init__(self) -> None:
        self.device = torch.device("cuda:0")
        self.config = TransformerConfig()
        torch.manual_seed(0)
        tokens = GRID[0] * GRID[1]
        self.latents = torch.randn(tokens, 64, device=self.device, dtype=torch.bfloat16)
        self.text = torch.randn(512, 3584, device=self.device, dtype=torch.bfloat16)
        self.schedules = ScheduleTable.build(FAMILIES["lightning"])

    @cached_property
    def stock(self) -> Any:
        """Built in bf16 on the device, in seconds."""
        torch.set_default_dtype(torch.bfloat16)
        try:
            # Compiling refuses tensors made in inference mode.
            with torch.inference_mode(False), self.device:
                model: Any = QwenImageTransformer2DModel()
        finally:
            torch.set_default_dtype(torch.float32)
        return model.requires_grad_(False).eval()

    @cached_property
    def state(self) -> dict[str, Tensor]:
        """Stock's weights by name."""
        return dict(self.stock.state_dict())

    def read(self, name: str) -> Tensor:
        """As from a checkpoint."""
        return self.state[name]

    @cached_property
    def table(self) -> ModulationTable:
        """Ours."""
        condition = conditioning(lambda name: self.read(name).cpu(), self.schedules.rows)
        return ModulationTable.build(self.config, self.read, condition.to(self.device))

    def fields(self, kind: WeightKind, rank: int) -> Fields:
        """Of a block."""
        return block_fields(self.config, torch.bfloat16, kind, rank)

    def ours(
        self,
        streaming: Streaming | None = None,
        kind: WeightKind = WeightKind.BF16,
        rank: int = 0,
    ) -> Transformer:
        """Our transformer, all on the device or streamed, with room for adapters of `rank`."""

        def fill(index: int, buffer: Tensor) -> None:
            fill_block(block_views(self.fields(kind, rank), buffer), index, self.read)

        edges = read_edges(self.read)
        return load_transformer(
            self.config,
            edges,
            fill,
            grid=GRID,
            device=self.device,
            dtype=torch.bfloat16,
            kind=kind,
            streaming=streaming,
            rank=rank,
        )

    @cached_property
    def resident(self) -> Transformer:
        """All on the device."""
        return self.ours()

    def image(self, model: Transformer, tokens: int = TEXT_TOKENS) -> ImageInputs:
        """One at the first noise level."""
        (modulation,) = self.table.select([0], [], torch.bfloat16)
        return ImageInputs(
            self.latents, self.text[:tokens], model.text_rotation(tokens), modulation
        )

    def stock_step(self) -> Tensor:
        """One forward pass of stock, without a mask."""
        out: Tensor = self.stock(
            hidden_states=self.latents[None],
            encoder_hidden_states=self.text[None, :TEXT_TOKENS],
            timestep=torch.ones(1, device=self.device, dtype=torch.bfloat16),
            img_shapes=[[(1, *GRID)]],
            return_dict=False,
        )[0][0]
        return out


def step(bench: Bench) -> Figures:
    """One step with everything on the device."""
    model = bench.resident
    image = bench.image(model)
    ours = model.forward([image])[0]
    stock = bench.stock_step()
    torch.cuda.synchronize()
    began = time.perf_counter()
    model.forward([image])
    host = time.perf_counter() - began
    return {
        "host's part, ms": 1e3 * host,
        "stock eager, ms": milliseconds(bench.stock_step),
        "ours, ms": milliseconds(lambda: model.forward([image])),
        "ours, four images, ms": milliseconds(lambda: model.forward([image] * 4), 3),
        "relative difference": float((ours - stock).float().norm() / stock.float().norm()),
    }


def kernels(bench: Bench) -> Figures:
    """Where a step's device time goes."""
    image = bench.image(bench.resident)
    return breakdown(lambda: bench.resident.forward([image]))


def fp8(bench: Bench) -> Figures:
    """The same step with eight-bit weights and products."""
    model = bench.ours(kind=WeightKind.FP8)
    image = bench.image(model)
    errors = per_block(bench.resident, model, image)
    exact = bench.resident.forward([image])[0].float()
    ours = model.forward([image])[0].float()
    return {
        "step, ms": milliseconds(lambda: model.forward([image])),
        "velocity against bf16, relative": float((ours - exact).norm() / exact.norm()),
        "a block's image stream, least": min(errors),
        "a block's image stream, median": statistics.median(errors),
        "a block's image stream, most": max(errors),
    } | breakdown(lambda: model.forward([image]))


def lengths(bench: Bench) -> Figures:
    """What the first step with a prompt of a new length pays after the engine's warm-up, ms."""
    found: Figures = {}
    for tokens in bench.resident.prompt_lengths:
        bench.resident.forward([bench.image(bench.resident, tokens)])
    for tokens in (7, 81, 96, 217, 300, 512):
        image = bench.image(bench.resident, tokens)
        torch.cuda.synchronize()
        began = time.perf_counter()
        bench.resident.forward([image])
        torch.cuda.synchronize()
        first = 1e3 * (time.perf_counter() - began)
        usual = milliseconds(lambda p=image: bench.resident.forward([p]), 3)  # type: ignore[misc]
        found[f"{tokens} tokens, first step over the next"] = first - usual
    return found


def streaming(bench: Bench) -> Figures:
    """A step within the mission's memory, against the host link."""
    demand = full_demand(WeightKind.BF16)
    plan = make_plan(demand, BUDGET, IDLE)
    blocks, _ = streaming_of(plan, bench.device)
    assert blocks is not None
    compute = milliseconds(lambda: bench.resident.forward([bench.image(bench.resident)]), 5)
    model = bench.ours(blocks)
    image = bench.image(model)
    same = torch.equal(
        model.forward([image])[0], bench.resident.forward([bench.image(bench.resident)])[0]
    )
    lean = milliseconds(lambda: model.forward([image]), 5)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.mem_get_info()[0]
    model.blocks.allocate_cache()
    ours = milliseconds(lambda: model.forward([image]), 5)
    four = milliseconds(lambda: model.forward([image] * 4), 3)
    during = torch.cuda.mem_get_info()[0]
    torch.cuda.synchronize()
    model.blocks.release_cache()
    torch.cuda.empty_cache()
    after = torch.cuda.mem_get_info()[0]
    rate = link_rate()
    nbytes = (plan.streamed_blocks - plan.cached_blocks) * demand.block
    bound = max(compute, nbytes / rate * 1e3)
    return {
        "resident blocks": plan.resident_blocks,
        "staying blocks": plan.cached_blocks,
        "plan, idle GB": plan.idle / 1e9,
        "plan, peak GB": plan.peak / 1e9,
        "same to the bit": same,
        "host link, GB/s": rate / 1e9,
        "step without headroom, ms": lean,
        "step, ms": ours,
        "bound, ms": bound,
        "step over bound": ours / bound,
        "four images, ms": four,
        "one by one over four together": 4 * ours / four,
        "headroom taken, GB": (before - during) / 1e9,
        "headroom left after, GB": (before - after) / 1e9,
    }


def link_rate() -> float:
    """Bytes a second from pinned memory."""
    target = torch.empty(450_000_000, dtype=torch.uint8, device="cuda")
    source = host_memory(target.nbytes, target.device)
    return source.nbytes / milliseconds(lambda: target.copy_(source, non_blocking=True)) * 1e3


def finite(bench: Bench) -> Figures:
    """What the look for non-finite values adds to a step, its wait for the device included."""
    image = bench.image(bench.resident)
    latents = bench.latents.float()

    def steps(checked: bool) -> None:
        for _ in range(4):
            velocity = bench.resident.forward([image])[0]
            following = torch.add(latents, velocity.float(), alpha=-0.25)
            if checked:
                assert torch.isfinite(following).all()

    plain, checked = (milliseconds(lambda c=c: steps(c)) for c in (False, True))  # type: ignore[misc]
    return {"four steps, ms": plain, "share of the checks, %": 100 * (checked / plain - 1)}


def compiled(bench: Bench) -> Figures:
    """Stock with its blocks compiled."""
    bench.stock.compile_repeated_blocks(fullgraph=True)
    return {"stock compiled, ms": milliseconds(bench.stock_step)}


def vae(bench: Bench) -> Figures:
    """The decoder, whole and in tiles."""
    return decode(bench.device)


SECTIONS = {f.__name__: f for f in (step, kernels, fp8, lengths, streaming, vae, finite, compiled)}


@torch.inference_mode()
def main() -> None:
    """Builds, runs and reports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(SECTIONS)}; all of them")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    bench = Bench()
    result: dict[str, object] = {"device": torch.cuda.get_device_name()}
    for name in chosen.sections or SECTIONS:
        found = SECTIONS[name](bench)
        result[name] = {key: round(float(value), 4) for key, value in found.items()}
        for key, value in found.items():
            print(f"{name:10} {key:44} {float(value):10.3f}", flush=True)
        if chosen.out:
            chosen.out.write_text(json.dumps(result) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
