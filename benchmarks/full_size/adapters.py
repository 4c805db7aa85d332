"""What adapters cost at Qwen-Image's real size, on one GPU, against stock diffusers with peft.

`python -m benchmarks.full_size.adapters [--out FILE]`: a step without and with adapters on all
linear layers, folded in and beside, what a switch between two costs, and the same with peft in the
same run; a line for each figure, then one JSON line. Random weights; needs an H200.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig

from benchmarks.full_size.__main__ import Bench
from benchmarks.full_size.kernel_classes import breakdown, milliseconds
from benchmarks.report import Report
from inference_server.adapters.segment import AdapterSegment
from inference_server.model.kernels import (
    triton_attention,
    triton_folding,
    triton_norms,
    triton_ops,
)
from inference_server.model.kernels.low_rank import GatedAdapter
from inference_server.model.transformer import ImageInputs
from wuliart_lora.slot_layout import LayoutParameters, SegmentLayout

ROOM = 64
"""Rank that finds room behind the matrices; the server's default."""


def random_adapter(bench: Bench, rank: int) -> GatedAdapter:
    """On every linear layer, where the contract's layout has them."""
    c = bench.config
    shape = (c.blocks, c.width, c.mlp_width, c.in_channels, c.output_features, c.text_features)
    layout = SegmentLayout(LayoutParameters(*shape, len(bench.schedules.rows), rank, "bfloat16"))

    segment = AdapterSegment(layout, 1, bench.device)
    segment._arena.view(torch.bfloat16).normal_(0, 0.01)
    sites = (*layout.low_rank_sites, *layout.delta_sites)
    return GatedAdapter(segment.tensors(0, rank, sites), 1.0)


def compiled() -> int:
    """Kernels that Triton has compiled so far."""
    modules = (triton_attention, triton_folding, triton_norms, triton_ops)
    kernels = [k for m in modules for k in vars(m).values() if hasattr(k, "device_caches")]
    return sum(len(kernel.device_caches[0][0]) for kernel in kernels)


def more(work: Callable[[], object], base: Callable[[], object], repeats: int = 12) -> float:
    """Percent that `work` takes longer; in turns, as the card's clock changes with its heat."""
    times = [(milliseconds(work, 1), milliseconds(base, 1)) for _ in range(repeats)]
    return 100 * (
        statistics.median(a for a, _ in times) / statistics.median(b for _, b in times) - 1
    )


def wall(work: Callable[[int], object], repeats: int = 10) -> float:
    """Median milliseconds until the device is done; `work` is told the repeat's number."""
    times = []
    for number in range(repeats):
        torch.cuda.synchronize()
        began = time.perf_counter()
        work(number)
        torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times)


def ours(bench: Bench, report: Report) -> None:
    """Steps, then switches."""
    model = bench.ours(rank=ROOM)
    one, other, large = (random_adapter(bench, rank) for rank in (16, 16, 64))

    def image(adapters: Sequence[GatedAdapter]) -> ImageInputs:
        (modulation,) = bench.table.select([0], adapters, torch.bfloat16)
        return bench.image(model)._replace(adapters=adapters, modulation=modulation)

    plain, *adapterd = map(image, ([], [one], [one, other], [large], [other]))
    report("step, ms", milliseconds(lambda: model.forward([plain])))
    names = ("one of rank 16", "two of rank 16", "one of rank 64")
    for name, adapter in zip(names, adapterd[:3], strict=True):
        taken = more(lambda s=adapter: model.forward([s]), lambda: model.forward([plain]))  # type: ignore[misc]
        report(f"{name}, % more", taken)
    before = compiled()
    report("same adapter again, step, ms", wall(lambda _: model.forward([adapterd[0]])))
    pair = (adapterd[0], adapterd[3])
    report("another adapter each time, step, ms", wall(lambda n: model.forward([pair[n % 2]])))
    fold: Any = model.folded
    report("a switch by itself, ms", wall(lambda n: fold.fold(pair[n % 2].adapters)))
    report("a switch, device, ms", milliseconds(lambda: (fold.fold([one]), fold.fold([other]))) / 2)
    report("its tables, ms", wall(lambda _: bench.table.select(range(4), [one], torch.bfloat16)))
    report("tables without, ms", wall(lambda _: bench.table.select(range(4), [], torch.bfloat16)))
    report("kernels compiled by switching", compiled() - before)
    for name, value in breakdown(lambda: model.forward([adapterd[0]])).items():
        report(f"with one of rank 16: {name}", value)
    folded = model.forward([adapterd[0]])[0].float()
    model.folded = None
    for name, adapter in zip(names, adapterd[:3], strict=True):
        taken = more(lambda s=adapter: model.forward([s]), lambda: model.forward([plain]), 4)  # type: ignore[misc]
        report(f"{name} beside the products, % more", taken)
    beside = model.forward([adapterd[0]])[0].float()
    report("folded against beside, relative", float((folded - beside).norm() / beside.norm()))


def stock(bench: Bench, report: Report) -> None:
    """The same adapters on stock diffusers with peft."""
    base = milliseconds(bench.stock_step, 5)
    report("stock, step, ms", base)
    modules = [n for n, m in bench.stock.named_modules() if isinstance(m, torch.nn.Linear)]
    targets = [name for name in modules if not name.startswith("time_text_embed")]
    began = time.perf_counter()
    for name, rank in (("a", 16), ("b", 16)):
        with torch.inference_mode(False), bench.device:
            config = LoraConfig(r=rank, target_modules=targets, init_lora_weights=False)
            bench.stock.add_adapter(config, adapter_name=name)
        report(f"stock, adapter {name} added, ms", 1e3 * (time.perf_counter() - began))
        began = time.perf_counter()
    bench.stock.to(torch.bfloat16)
    bench.stock.set_adapters(["a"])
    report("stock, one of rank 16, % more", 100 * (milliseconds(bench.stock_step, 5) / base - 1))
    switch = wall(lambda n: bench.stock.set_adapters(["ab"[n % 2]]), 4)
    report("stock, set_adapters, ms", switch)
    bench.stock.set_adapters(["a", "b"])
    report("stock, two of rank 16, % more", 100 * (milliseconds(bench.stock_step, 5) / base - 1))


@torch.inference_mode()
def main() -> None:
    """Builds, runs and reports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    found: dict[str, object] = {}
    report = Report({"device": torch.cuda.get_device_name(), "adapters": found}, found, chosen.out)
    bench = Bench()
    ours(bench, report)
    torch.cuda.empty_cache()
    stock(bench, report)
    print(report.text())


if __name__ == "__main__":
    main()
