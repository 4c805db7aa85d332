"""Time from a closed LoRA file to a usable adapter, and the cost of switching adapters."""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import torch

from benchmarks.report import Figure, percentile
from benchmarks.service.lora_files import random_adapter
from inference_server.adapters.segment import AdapterSegment
from inference_server.config import EMBEDDED_MODEL
from inference_server.engine.engine import Engine
from inference_server.loading.load import load_model
from inference_server.loading.sources import open_source
from inference_server.model.kernels.low_rank import GatedAdapter
from scripts.processes import Service
from wuliart_client import AdapterEvent, AdapterState, Cancelled, Client, WuliArtError
from wuliart_lora import parse_lora
from wuliart_lora.slot_image import build_image, module_shapes
from wuliart_lora.slot_layout import SegmentLayout

FILES = 40
LARGEST_FILE = 25_000_000
MAX_RANK = 128
"""The embedded model is small: a file of 25 MB needs a rank that is higher than any in use."""

SWITCHES = 400


def measure() -> list[Figure]:
    """Measures both."""
    model = load_model(open_source(EMBEDDED_MODEL, None), torch.device("cpu"), torch.float32)
    return [_drop(model.layout(MAX_RANK)), *_switch(Engine(model))]


def _rank_for(layout: SegmentLayout, size: int) -> int:
    per_rank = len(random_adapter(layout, 8, 0)) / 8
    return min(layout.parameters.max_rank, int(size / per_rank))


def _drop(layout: SegmentLayout) -> Figure:
    rank = _rank_for(layout, LARGEST_FILE)
    with tempfile.TemporaryDirectory(prefix="wuliart-bench-") as folder:
        service = Service(
            Path(folder) / "run",
            Path(folder) / "loras",
            server_arguments=["--max-rank", str(MAX_RANK)],
        )
        service.start_server()
        service.start_manager()
        try:
            service.wait_until_ready()
            with Client(service.listen) as client:
                while not client.info().lora_manager_connected:
                    time.sleep(0.05)
                times, size = _drop_files(client, service.loras, layout, rank)
        finally:
            service.stop()
    return Figure(
        "file closed → usable, p95",
        1000 * percentile(times, 0.95),
        "ms",
        210,
        note=f"{size / 1e6:.1f} MB files, {len(times)} of them, while images are generated; "
        f"median {1000 * statistics.median(times):.0f} ms",
    )


def _drop_files(
    client: Client, folder: Path, layout: SegmentLayout, rank: int
) -> tuple[list[float], int]:
    stop = threading.Event()

    def generate() -> None:
        with suppress(Cancelled):
            while not stop.is_set():
                client.generate_image("a boat", seed=1)

    generating = threading.Thread(target=generate)
    generating.start()
    times, size = [], 0
    try:
        with client.watch() as changes:
            next(changes)
            for n in range(FILES):
                data = random_adapter(layout, rank, seed=n)
                size = len(data)
                path = folder / f"adapter{n}.safetensors"
                with path.open("wb") as file:
                    file.write(data)
                    file.flush()
                closed = time.perf_counter()
                _await_resident(changes, path.stem)
                times.append(time.perf_counter() - closed)
                if n >= 4:
                    (folder / f"adapter{n - 4}.safetensors").unlink()
    finally:
        stop.set()
        generating.join()
    return times, size


def _await_resident(changes: Iterable[AdapterEvent], name: str) -> None:
    for change in changes:
        for adapter in change.adapters:
            if adapter.name != name:
                continue
            if adapter.state is AdapterState.REFUSED:
                raise WuliArtError(adapter.refusal_reason)
            if adapter.state is AdapterState.RESIDENT:
                return


def _switch(engine: Engine) -> list[Figure]:
    layout = engine.model.layout(32)
    segment = AdapterSegment(layout, 2, torch.device("cpu"))
    gated = []
    for slot in range(2):
        adapter = parse_lora(random_adapter(layout, 16, slot), module_shapes(layout), 32)
        packed = build_image(adapter, layout, engine.model.conditioning.numpy())
        segment.shared_bytes(slot)[: len(packed.data)] = torch.from_numpy(packed.data)
        gated.append(GatedAdapter(segment.tensors(slot, packed.packed_rank, packed.sites), 1.0))
    prompt = engine.encode("switch")

    def begin(one: GatedAdapter) -> float:
        began = time.perf_counter()
        engine.begin(prompt, 0, 4, adapters=[one])
        return time.perf_counter() - began

    steps: list[float] = []
    plain: list[float] = []
    for adapters, kept in ((gated[:1], steps), ([], plain)):
        for _ in range(5):
            image = engine.begin(prompt, 0, 4, adapters=adapters)
            for _ in range(4):
                began = time.perf_counter()
                engine.step([image])
                kept.append(time.perf_counter() - began)
    same = [begin(gated[0]) for _ in range(SWITCHES)]
    alternating = [begin(gated[n % 2]) for n in range(SWITCHES)]
    step = statistics.median(steps)
    extra = statistics.median(alternating) - statistics.median(same)
    return [
        Figure(
            "switching adapters between requests",
            100 * max(0.0, extra) / step,
            "% of a step",
            1,
            note=f"alternating two against one, {SWITCHES} each",
        ),
        Figure(
            "a step with one rank-16 adapter on all layers",
            100 * (step / statistics.median(plain) - 1),
            "% more",
            20,
            note="for information; the bound is what stock peft costs on a large model",
        ),
    ]
