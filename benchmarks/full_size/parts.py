"""The engine's parts at Qwen-Image's real size with random weights, on one GPU, against stock.

`python -m benchmarks.full_size parts [SECTION ...] [--out FILE]` prints a line per value as it is
measured, then one line of JSON. Needs an H200: stock and ours side by side take 85 GB.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from benchmarks.full_size.decode import decode
from benchmarks.full_size.kernel_classes import breakdown, milliseconds
from benchmarks.full_size.quantized_blocks import per_block
from benchmarks.full_size.random_model import full_demand
from benchmarks.full_size.transformer_pair import TransformerPair
from benchmarks.report import Report
from inference_server.loading.memory_budget import make_plan
from inference_server.loading.memory_sizes import streaming_of
from inference_server.model.offload.pinned_memory import host_memory
from inference_server.weight_kind import WeightKind

BUDGET, IDLE = 18_700_000_000, 11_200_000_000
"""--vram-budget and --idle-vram in bytes that a 24 GB card is promised to work with."""

Values = dict[str, float]


def step(pair: TransformerPair) -> Values:
    """Measures one step with all weights on the device."""
    model = pair.resident
    image = pair.image(model)
    ours = model.forward([image])[0]
    stock = pair.stock_step()
    torch.cuda.synchronize()
    began = time.perf_counter()
    model.forward([image])
    host = time.perf_counter() - began
    return {
        "host's part, ms": 1e3 * host,
        "stock eager, ms": milliseconds(pair.stock_step),
        "ours, ms": milliseconds(lambda: model.forward([image])),
        "ours, four images, ms": milliseconds(lambda: model.forward([image] * 4), 3),
        "relative difference": float((ours - stock).float().norm() / stock.float().norm()),
    }


def kernels(pair: TransformerPair) -> Values:
    """Measures a step's device time by class of kernel."""
    image = pair.image(pair.resident)
    return breakdown(lambda: pair.resident.forward([image]))


def fp8(pair: TransformerPair) -> Values:
    """Measures the same step with float8 weights and products."""
    model = pair.ours(kind=WeightKind.FP8)
    image = pair.image(model)
    errors = per_block(pair.resident, model, image)
    exact = pair.resident.forward([image])[0].float()
    ours = model.forward([image])[0].float()
    return {
        "step, ms": milliseconds(lambda: model.forward([image])),
        "velocity against bf16, relative": float((ours - exact).norm() / exact.norm()),
        "a block's image stream, least": min(errors),
        "a block's image stream, median": statistics.median(errors),
        "a block's image stream, most": max(errors),
    } | breakdown(lambda: model.forward([image]))


def lengths(pair: TransformerPair) -> Values:
    """Measures what the first step with a new prompt length costs after the warm-up, in ms."""
    found: Values = {}
    for tokens in pair.resident.prompt_lengths:
        pair.resident.forward([pair.image(pair.resident, tokens)])
    for tokens in (7, 81, 96, 217, 300, 512):
        image = pair.image(pair.resident, tokens)
        torch.cuda.synchronize()
        began = time.perf_counter()
        pair.resident.forward([image])
        torch.cuda.synchronize()
        first = 1e3 * (time.perf_counter() - began)
        usual = milliseconds(lambda p=image: pair.resident.forward([p]), 3)  # type: ignore[misc]
        found[f"{tokens} tokens, first step over the next"] = first - usual
    return found


def streaming(pair: TransformerPair) -> Values:
    """Measures a step within BUDGET against the time that the host link needs."""
    demand = full_demand(WeightKind.BF16)
    plan = make_plan(demand, BUDGET, IDLE)
    blocks, _ = streaming_of(plan, pair.device)
    assert blocks is not None
    compute = milliseconds(lambda: pair.resident.forward([pair.image(pair.resident)]), 5)
    model = pair.ours(blocks)
    image = pair.image(model)
    same = torch.equal(
        model.forward([image])[0], pair.resident.forward([pair.image(pair.resident)])[0]
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
        "cached blocks": plan.cached_blocks,
        "plan, idle GB": plan.idle / 1e9,
        "plan, peak GB": plan.peak / 1e9,
        "same to the bit": same,
        "host link, GB/s": rate / 1e9,
        "step without block cache, ms": lean,
        "step, ms": ours,
        "bound, ms": bound,
        "step over bound": ours / bound,
        "four images, ms": four,
        "one by one over four together": 4 * ours / four,
        "block cache, GB": (before - during) / 1e9,
        "block cache left after, GB": (before - after) / 1e9,
    }


def link_rate() -> float:
    """Measures the host link in bytes per second, from pinned memory."""
    target = torch.empty(450_000_000, dtype=torch.uint8, device="cuda")
    source = host_memory(target.nbytes, target.device)
    return source.nbytes / milliseconds(lambda: target.copy_(source, non_blocking=True)) * 1e3


def finite(pair: TransformerPair) -> Values:
    """Measures what the check for non-finite values adds to a step, its wait included."""
    image = pair.image(pair.resident)
    latents = pair.latents.float()

    def steps(checked: bool) -> None:
        for _ in range(4):
            velocity = pair.resident.forward([image])[0]
            following = torch.add(latents, velocity.float(), alpha=-0.25)
            if checked:
                assert torch.isfinite(following).all()

    plain, checked = (milliseconds(lambda c=c: steps(c)) for c in (False, True))  # type: ignore[misc]
    return {"four steps, ms": plain, "share of the checks, %": 100 * (checked / plain - 1)}


def compiled(pair: TransformerPair) -> Values:
    """Measures stock with its blocks compiled."""
    pair.stock.compile_repeated_blocks(fullgraph=True)
    return {"stock compiled, ms": milliseconds(pair.stock_step)}


def vae(pair: TransformerPair) -> Values:
    """Measures the decoder, whole and in tiles."""
    return decode(pair.device)


SECTIONS = {f.__name__: f for f in (step, kernels, fp8, lengths, streaming, vae, finite, compiled)}


@torch.inference_mode()
def main() -> None:
    """Measures the chosen sections, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(SECTIONS)}; default: all")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    pair = TransformerPair()
    line: dict[str, object] = {"device": torch.cuda.get_device_name()}
    for name in chosen.sections or SECTIONS:
        found: dict[str, object] = {}
        line[name] = found
        print(name)
        report = Report(line, found, chosen.out)
        for key, value in SECTIONS[name](pair).items():
            report(key, value)
    print(json.dumps(line))
