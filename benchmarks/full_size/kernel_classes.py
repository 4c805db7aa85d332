"""Device time by CUDA events and by class of kernel."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

CLASSES = {
    "attention": ("flash", "fmha", "sdpa", "attention"),
    "product": ("gemm", "cutlass", "nvjet", "xmma", "splitk", "cublas", "wgmma"),
    "norm": ("_norm_kernel",),
    "rotation": ("_norm_rotate",),
    "kronecker": ("_kronecker_kernel",),
    "copy": ("memcpy", "memset", "copy"),
}
"""Class -> parts of its kernels' names; the first match counts, the rest is elementwise."""


def milliseconds(work: Callable[[], object], repeats: int = 10) -> float:
    """Measures the median of `repeats` runs by device events, after two warm-up runs."""
    work(), work()
    times: list[float] = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def breakdown(work: Callable[[], object]) -> dict[str, float]:
    """Measures one run in ms by class of kernel, and the time between kernels."""
    work()
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiled:
        work()
    found: dict[str, float] = defaultdict(float)
    names: dict[str, float] = defaultdict(float)
    spans = []
    for event in profiled.events():
        if event.device_type.name != "CUDA":
            continue
        spans.append((event.time_range.start, event.time_range.end))
        milliseconds = event.time_range.elapsed_us() / 1e3
        names[event.name] += milliseconds
        lower = event.name.lower()
        kind = next((k for k, parts in CLASSES.items() if any(p in lower for p in parts)), "other")
        found[f"{kind}, ms"] += milliseconds
    for name, milliseconds in sorted(names.items(), key=lambda item: -item[1])[:14]:
        print(f"  {milliseconds:8.2f} ms  {name[:110]}")
    wall = (max(end for _, end in spans) - min(start for start, _ in spans)) / 1e3
    return dict(found) | {"idle between kernels, ms": wall - sum(found.values())}
