"""Generates, swaps files, and cancels at random, and watches both processes' memory."""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch

from benchmarks.report import Figure
from benchmarks.service.endurance import WORDS
from benchmarks.service.lora_files import random_adapter
from benchmarks.stress.processes import Gauge
from inference_server.config import EMBEDDED_MODEL
from inference_server.loading.load import load_model
from inference_server.loading.sources import open_source
from scripts.processes import Service
from wuliart_client import Client, WuliArtError

CLIENTS = 3
ADAPTERS = 6
RANK = 8
CONTENTS = 8
SWAP_SECONDS = 1.5

PROMPTS = 40
"""Few, so that the prompt cache is soon full; its 64 MB would otherwise look like a leak."""

CANCELLED = 0.3
"""Share of the calls that are cancelled at a random event."""

TIMEOUT = 120.0
MEGABYTES = 10.0


@dataclass
class Done:
    """Counts of what was done, and of failed calls by error."""

    images: int = 0
    cancelled: int = 0
    swaps: int = 0
    failed: Counter[str] = field(default_factory=Counter)


def _generate(
    client: Client, names: list[str], done: Done, over: threading.Event, seed: int
) -> None:
    choose = random.Random(seed)
    few = random.Random(PROMPTS)
    prompts = [" ".join(few.choices(WORDS, k=few.randint(1, 12))) for _ in range(PROMPTS)]
    while not over.is_set():
        adapters = [(n, choose.uniform(-1, 1)) for n in choose.sample(names, choose.randint(0, 3))]
        leaves = choose.randint(0, 5) if choose.random() < CANCELLED else None
        prompt = choose.choice(prompts)
        steps, preview = choose.randint(1, 4), choose.random() < 0.5
        try:
            with client.generate(
                prompt, steps=steps, adapters=adapters, preview=preview, timeout=TIMEOUT
            ) as events:
                for n, _ in enumerate(events):
                    if n == leaves:
                        done.cancelled += 1
                        break
                else:
                    done.images += 1
        except WuliArtError as error:
            done.failed[f"{type(error).__name__}: {error.message}"] += 1


def _swap(folder: Path, names: list[str], contents: list[bytes], done: Done) -> None:
    aside = folder.parent / "aside"
    aside.write_bytes(random.choice(contents))
    aside.rename(folder / f"{random.choice(names)}.safetensors")
    done.swaps += 1


def soak(seconds: float) -> list[Figure]:
    """Runs three clients while a file changes every second and a half."""
    model = load_model(open_source(EMBEDDED_MODEL, None), torch.device("cpu"), torch.float32)
    layout = model.layout(RANK)
    contents = [random_adapter(layout, RANK, n) for n in range(CONTENTS)]
    names = [f"adapter{n}" for n in range(ADAPTERS)]
    done, over = Done(), threading.Event()
    with tempfile.TemporaryDirectory(prefix="wuliart-stress-") as folder:
        service = Service(Path(folder) / "run", Path(folder) / "loras")
        service.server_arguments = ["--log-level", "WARNING"]
        for n, name in enumerate(names):
            (service.loras / f"{name}.safetensors").write_bytes(contents[n % CONTENTS])
        service.start_server()
        service.start_manager()
        try:
            service.wait_until_ready()
            with Client(service.listen) as client:
                while len(client.adapters()) < ADAPTERS:
                    time.sleep(0.05)
                processes = [psutil.Process(service.processes[n].pid) for n in _PROCESSES]
                threads = [
                    threading.Thread(target=_generate, args=(client, names, done, over, n))
                    for n in range(CLIENTS)
                ]
                with Gauge(processes[0]) as server, Gauge(processes[1]) as manager:
                    for thread in threads:
                        thread.start()
                    ends = time.monotonic() + seconds
                    while time.monotonic() < ends:
                        _swap(service.loras, names, contents, done)
                        time.sleep(SWAP_SECONDS)
                over.set()
                for thread in threads:
                    thread.join()
            service.check()
        finally:
            over.set()
            service.stop()
    for what, count in done.failed.items():
        print(f"  {count} x {what}")
    note = f"{done.images} images, {done.cancelled} cancelled, {done.swaps} files changed"
    return [
        Figure("soak: failed calls", sum(done.failed.values()), "", 0, note=note),
        *server.figures("soak, server", MEGABYTES),
        *manager.figures("soak, manager", MEGABYTES),
    ]


_PROCESSES = ("server", "manager")
