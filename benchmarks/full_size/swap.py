"""LoRA files that change while a GPU generates at Qwen-Image's real size; both ways to inject.

`python -m benchmarks.full_size swap [--seconds 20] [--out FILE]` runs the real manager as a
process, the server's store and sockets, and steps of the transformer with random weights. For
`staged` and `direct` it measures the manager's memory on the card, the time from a closed file to a
resident adapter, and the effect on the steps. Prints a line per value, then one line of JSON. Needs
an H200.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save

from benchmarks.full_size.lokr import lokr_file
from benchmarks.full_size.transformer_pair import TransformerPair
from benchmarks.report import Report, percentile
from inference_server.adapters.records import AdapterState
from inference_server.adapters.segment import AdapterSegment
from inference_server.adapters.store import AdapterStore
from inference_server.engine.loaded_model import slot_layout
from inference_server.model.transformer import ImageInputs, Transformer
from inference_server.scheduler.device_thread import device_thread
from inference_server.service.descriptor_socket import DescriptorSocket
from inference_server.service.listeners import ControlListener
from inference_server.service.segment_service import SegmentServicer
from scripts.processes import Service
from wuliart_lora.slot_layout import LowRankSite, SegmentLayout
from wuliart_process.sockets import CONTROL_SOCKET, DESCRIPTOR_SOCKET

RANK, SLOTS = 16, 3
SMALL = ("attn.to_q", "attn.to_k", "attn.to_v")
"""Modules of the small file, which has 18 MB at rank 8."""


@dataclass
class Server:
    """The server's side of the manager's protocol, on an event loop in a thread of its own."""

    store: AdapterStore
    folder: Path
    ready: threading.Event = field(default_factory=threading.Event)
    news: threading.Event = field(default_factory=threading.Event)
    """Set at every change of the store, so that waiting for one does not disturb the steps."""
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    def run(self, conditioning: bytes) -> None:
        """Serves until `loop` is stopped."""
        asyncio.set_event_loop(self.loop)
        # Kept in a variable: the loop holds tasks only weakly.
        serving = self.loop.create_task(self._serve(conditioning))
        self.loop.run_forever()
        serving.cancel()

    async def _serve(self, conditioning: bytes) -> None:
        segment = self.store.segment
        descriptors = DescriptorSocket(
            self.folder / DESCRIPTOR_SOCKET, lambda: segment.descriptor, self.store.writer_is_gone
        )
        control = ControlListener(
            self.folder / CONTROL_SOCKET, SegmentServicer(self.store, descriptors, conditioning)
        )
        descriptors.start()
        await control.start()
        self.ready.set()
        while True:
            await self.store.changed.wait()
            self.news.set()

    def resident(self, name: str) -> str:
        """Returns the content hash of the resident adapter of that name; empty if there is none."""
        adapter = self.store.catalog.get(name)
        there = adapter is not None and adapter.state is AdapterState.RESIDENT
        return adapter.entry.content_hash if there and adapter is not None else ""


@contextmanager
def stepping(model: Transformer, image: ImageInputs) -> Iterator[list[float]]:
    """Runs steps in the background; yields a list that each step's ms are appended to."""
    times: list[float] = []
    stop = threading.Event()

    @torch.inference_mode()
    def step() -> None:
        while not stop.is_set():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            model.forward([image])
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end))

    device = device_thread()
    stepped = device.submit(step)
    try:
        yield times
    finally:
        stop.set()
        stepped.result()
        device.shutdown()


def random_file(layout: SegmentLayout, rank: int, modules: Sequence[str], seed: int) -> bytes:
    """Returns a LoRA file in bf16.

    Generated on the GPU, because a CPU needs half a minute for 150 million numbers.
    """
    torch.manual_seed(seed)
    tensors = {}
    for module in modules:
        site, _ = layout.modules[module]
        width = layout.parameters.width
        inside = site.in_features if isinstance(site, LowRankSite) else width
        for half, shape in (("A", (rank, inside)), ("B", (site.out_features, rank))):
            values = torch.randn(shape, device="cuda", dtype=torch.bfloat16).mul_(0.01)
            tensors[f"transformer.{module}.lora_{half}.weight"] = values.cpu()
    return save(tensors)


def swap(server: Server, loras: Path, name: str, data: bytes) -> float:
    """Measures the seconds from closing a file until its adapter is resident."""
    path = loras / f"{name}.safetensors"
    before = server.resident(name)
    with path.open("wb") as file:
        file.write(data)
    closed = time.perf_counter()
    while server.resident(name) in ("", before):
        if not server.news.wait(20):
            raise TimeoutError(f"{name}: {server.store.catalog.get(name)}")
        server.news.clear()
    return time.perf_counter() - closed


def used() -> float:
    """Returns the MB in use by the driver's count, of all processes."""
    free, total = torch.cuda.mem_get_info()
    return (total - free) / 1e6


def measure(
    inject: str,
    pair: TransformerPair,
    model: Transformer,
    *,
    files: dict[str, list[bytes]],
    seconds: float,
    layout: SegmentLayout,
    report: Report,
) -> None:
    """Measures one way to inject."""
    image = pair.image(model)
    with tempfile.TemporaryDirectory(prefix="wuliart-") as folder:
        service = Service(
            Path(folder) / "run", Path(folder) / "loras", manager_arguments=["--inject", inject]
        )
        with torch.inference_mode(False):  # as in the server: it is written to by others
            segment = AdapterSegment(layout, SLOTS, pair.device)
        store = AdapterStore(segment, SLOTS - 1)
        server = Server(store, service.runtime_dir)
        rows = len(pair.schedules.rows) * pair.config.width * 4
        threading.Thread(target=server.run, args=(bytes(rows),), daemon=True).start()
        server.ready.wait(10)
        with stepping(model, image) as idle:
            time.sleep(seconds / 4)
        before = used()
        service.start_manager()
        try:
            while not store.manager_attached:
                time.sleep(0.01)
            for name, contents in files.items():
                swap(server, service.loras, name, contents[0])
            report(f"{inject}: the manager's share of the card, MB", used() - before)
            times: dict[str, list[float]] = {name: [] for name in files}
            with stepping(model, image) as busy:
                began, turn = time.perf_counter(), 1
                while time.perf_counter() - began < seconds:
                    for name, contents in files.items():
                        data = contents[turn % len(contents)]
                        times[name].append(swap(server, service.loras, name, data))
                    turn += 1
            with stepping(model, image) as after:
                time.sleep(seconds / 4)
        finally:
            service.stop()
            log = (service.runtime_dir / "manager.log").read_text(encoding="utf-8")
            print(*log.splitlines()[-4:], sep="\n")
            server.loop.call_soon_threadsafe(server.loop.stop)
    for name, taken in times.items():
        report(f"{inject}: {name}, median ms", 1e3 * statistics.median(taken))
        report(f"{inject}: {name}, p95 ms", 1e3 * percentile(taken, 0.95))
    report(f"{inject}: swaps", sum(map(len, times.values())))
    calm = [*idle[3:], *after[3:]]
    report(f"{inject}: step idle, median ms", statistics.median(calm))
    report(f"{inject}: step idle, p99 ms", percentile(calm, 0.99))
    report(f"{inject}: step while swapping, median ms", statistics.median(busy[3:]))
    report(f"{inject}: step while swapping, p99 ms", percentile(busy[3:], 0.99))


@torch.inference_mode()
def main() -> None:
    """Measures both ways to inject."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="of swapping, each way")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    found: dict[str, object] = {}
    report = Report({"device": torch.cuda.get_device_name(), "swap": found}, found, chosen.out)
    pair = TransformerPair()
    layout = slot_layout(pair.config, pair.schedules, torch.bfloat16, RANK)
    small = [module for module in layout.modules if module.endswith(SMALL)]
    files = {
        "small": [random_file(layout, 8, small, seed) for seed in range(2)],
        "large": [random_file(layout, 16, [*layout.modules], seed) for seed in range(2)],
        "LoKr": [lokr_file(layout, seed) for seed in range(2)],
    }
    for name, contents in files.items():
        report(f"{name} file, MB", len(contents[0]) / 1e6)
    model = pair.ours()
    for inject in ("staged", "direct"):
        measure(
            inject,
            pair,
            model,
            files=files,
            seconds=chosen.seconds,
            layout=layout,
            report=report,
        )
    print(report.text())


if __name__ == "__main__":
    main()
