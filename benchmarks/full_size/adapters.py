"""The cost of adapters at Qwen-Image's real size, on one GPU, against stock diffusers with peft.

`python -m benchmarks.full_size adapters [--out FILE]` measures a step without and with adapters on
all linear layers, folded in and beside the products, a LoKr of ai-toolkit's default, switches
between two adapters, and the same with peft in the same run. Prints a line per value, then one line
of JSON. Needs an H200.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from peft import LoraConfig

from benchmarks.full_size.kernel_classes import breakdown, milliseconds
from benchmarks.full_size.lokr import check_kernel, random_lokr
from benchmarks.full_size.transformer_pair import TransformerPair
from benchmarks.report import Report
from inference_server.adapters.segment import AdapterSegment
from inference_server.engine.loaded_model import slot_layout
from inference_server.model.kernels import (
    triton_attention,
    triton_folding,
    triton_kronecker,
    triton_norms,
    triton_ops,
)
from inference_server.model.kernels.low_rank import GatedAdapter
from inference_server.model.transformer import ImageInputs

RANK = 64
"""Rank that the matrices have spare columns for; the server's default."""


def random_adapter(pair: TransformerPair, rank: int) -> GatedAdapter:
    """Returns a random adapter for every site of the slot layout."""
    layout = slot_layout(pair.config, pair.schedules, torch.bfloat16, rank)
    segment = AdapterSegment(layout, 1, pair.device)
    segment._arena.view(torch.bfloat16).normal_(0, 0.01)
    sites = (*layout.low_rank_sites, *layout.delta_sites)
    return GatedAdapter(segment.tensors(0, rank, sites), 1.0)


def compiled() -> int:
    """Returns how many kernels Triton has compiled so far."""
    modules = (triton_attention, triton_folding, triton_kronecker, triton_norms, triton_ops)
    kernels = [k for m in modules for k in vars(m).values() if hasattr(k, "device_caches")]
    return sum(len(kernel.device_caches[0][0]) for kernel in kernels)


def more(work: Callable[[], object], base: Callable[[], object], repeats: int = 12) -> float:
    """Measures how many percent longer `work` takes.

    The two alternate, because the card's clock changes with its temperature.
    """
    times = [(milliseconds(work, 1), milliseconds(base, 1)) for _ in range(repeats)]
    return 100 * (
        statistics.median(a for a, _ in times) / statistics.median(b for _, b in times) - 1
    )


def wall(work: Callable[[int], object], repeats: int = 10) -> float:
    """Measures the median ms until the device is done; `work` gets the number of the repeat."""
    times = []
    for number in range(repeats):
        torch.cuda.synchronize()
        began = time.perf_counter()
        work(number)
        torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times)


def ours(pair: TransformerPair, report: Report) -> None:
    """Measures steps, then switches, of our transformer."""
    model = pair.ours(rank=RANK)
    one, other, large = (random_adapter(pair, rank) for rank in (16, 16, 64))

    def image(adapters: Sequence[GatedAdapter]) -> ImageInputs:
        (modulation,) = pair.table.select([0], adapters, torch.bfloat16)
        return pair.image(model)._replace(adapters=adapters, modulation=modulation)

    plain, *adapted = map(image, ([], [one], [one, other], [large], [other]))
    report("step, ms", milliseconds(lambda: model.forward([plain])))
    names = ("one of rank 16", "two of rank 16", "one of rank 64")
    for name, adapter in zip(names, adapted[:3], strict=True):
        taken = more(lambda s=adapter: model.forward([s]), lambda: model.forward([plain]))  # type: ignore[misc]
        report(f"{name}, % more", taken)
    before = compiled()
    report("same adapter again, step, ms", wall(lambda _: model.forward([adapted[0]])))
    turns = (adapted[0], adapted[3])
    report("another adapter each time, step, ms", wall(lambda n: model.forward([turns[n % 2]])))
    folded = model.folded
    assert folded is not None
    report("a switch by itself, ms", wall(lambda n: folded.fold(turns[n % 2].adapters)))
    turned = milliseconds(lambda: (folded.fold([one]), folded.fold([other])))
    report("a switch, device, ms", turned / 2)
    report("its tables, ms", wall(lambda _: pair.table.select(range(4), [one], torch.bfloat16)))
    report("tables without, ms", wall(lambda _: pair.table.select(range(4), [], torch.bfloat16)))
    report("kernels compiled by switching", compiled() - before)
    for name, value in breakdown(lambda: model.forward([adapted[0]])).items():
        report(f"with one of rank 16: {name}", value)
    kronecker, both = image([random_lokr(pair)]), image([random_lokr(pair), one])
    for name, adapted_image in (("a LoKr", kronecker), ("a LoKr and one of rank 16", both)):
        taken = more(
            lambda s=adapted_image: model.forward([s]),  # type: ignore[misc]
            lambda: model.forward([plain]),
        )
        report(f"{name}, % more", taken)
    report("a LoKr, step, ms", wall(lambda _: model.forward([kronecker])))
    for name, value in breakdown(lambda: model.forward([kronecker])).items():
        report(f"with a LoKr: {name}", value)
    for name, value in check_kernel(pair.device).items():
        report(f"kernel of a LoKr, {name}, relative", value)
    in_products = model.forward([adapted[0]])[0].float()
    model.folded = None
    for name, adapter in zip(names, adapted[:3], strict=True):
        taken = more(lambda s=adapter: model.forward([s]), lambda: model.forward([plain]), 4)  # type: ignore[misc]
        report(f"{name} beside the products, % more", taken)
    beside = model.forward([adapted[0]])[0].float()
    report("folded against beside, relative", float((in_products - beside).norm() / beside.norm()))


def stock(pair: TransformerPair, report: Report) -> None:
    """Measures the same on stock diffusers with peft."""
    base = milliseconds(pair.stock_step, 5)
    report("stock, step, ms", base)
    modules = [n for n, m in pair.stock.named_modules() if isinstance(m, torch.nn.Linear)]
    targets = [name for name in modules if not name.startswith("time_text_embed")]
    began = time.perf_counter()
    for name, rank in (("a", 16), ("b", 16)):
        with torch.inference_mode(False), pair.device:
            config = LoraConfig(r=rank, target_modules=targets, init_lora_weights=False)
            pair.stock.add_adapter(config, adapter_name=name)
        report(f"stock, adapter {name} added, ms", 1e3 * (time.perf_counter() - began))
        began = time.perf_counter()
    pair.stock.to(torch.bfloat16)
    pair.stock.set_adapters(["a"])
    report("stock, one of rank 16, % more", 100 * (milliseconds(pair.stock_step, 5) / base - 1))
    switch = wall(lambda n: pair.stock.set_adapters(["ab"[n % 2]]), 4)
    report("stock, set_adapters, ms", switch)
    pair.stock.set_adapters(["a", "b"])
    report("stock, two of rank 16, % more", 100 * (milliseconds(pair.stock_step, 5) / base - 1))


@torch.inference_mode()
def main() -> None:
    """Measures ours, then stock."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    found: dict[str, object] = {}
    report = Report({"device": torch.cuda.get_device_name(), "adapters": found}, found, chosen.out)
    pair = TransformerPair()
    ours(pair, report)
    torch.cuda.empty_cache()
    stock(pair, report)
    print(report.text())


if __name__ == "__main__":
    main()
