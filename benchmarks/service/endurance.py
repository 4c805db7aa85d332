"""Fifty images in a row through both processes: none black, no error, no growth."""

from __future__ import annotations

import io
import random
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image

from benchmarks.report import Figure
from benchmarks.service.lora_files import random_adapter
from inference_server.config import EMBEDDED_MODEL
from inference_server.loading.load import load_model
from inference_server.loading.sources import open_source
from scripts.processes import Service
from wuliart_client import Client, WuliArtError

IMAGES = 50
WARM_UP = 12
ADAPTERS = 6
WORDS = [
    "red",
    "blue",
    "灯塔",
    "大海",
    "forest",
    "cat",
    "robot",
    "snow",
    "黄昏",
    "city",
    "moon",
    "山",
]


def measure() -> list[Figure]:
    """Generates random requests and checks every image."""
    with tempfile.TemporaryDirectory(prefix="wuliart-bench-") as folder:
        service = Service(Path(folder) / "run", Path(folder) / "loras")
        service.start_server()
        service.start_manager()
        try:
            service.wait_until_ready()
            with Client(service.listen) as client:
                return _generate(client, service)
        finally:
            service.stop()


def _generate(client: Client, service: Service) -> list[Figure]:
    model = load_model(open_source(EMBEDDED_MODEL, None), torch.device("cpu"), torch.float32)
    layout = model.layout(max_rank=8)
    names = [f"adapter{n}" for n in range(ADAPTERS)]
    for n, name in enumerate(names):
        (service.loras / f"{name}.safetensors").write_bytes(random_adapter(layout, 8, n))
    while len(client.adapters()) < ADAPTERS:
        time.sleep(0.05)
    choose = random.Random(1)
    server = psutil.Process(service.processes["server"].pid)
    black = errors = 0
    resident: list[int] = []
    for _ in range(IMAGES):
        prompt = " ".join(choose.choices(WORDS, k=choose.randint(1, 12)))
        adapters = [
            (name, choose.uniform(-1, 1)) for name in choose.sample(names, choose.randint(0, 3))
        ]
        try:
            image = client.generate_image(
                prompt, seed=choose.getrandbits(40), steps=choose.randint(1, 4), adapters=adapters
            )
        except WuliArtError as error:
            print(f"error: {error}")
            errors += 1
            continue
        black += _is_black(image.data)
        resident.append(server.memory_info().rss)
    warm = max(resident[:WARM_UP])
    growth = (max(resident[WARM_UP:]) - warm) / 1e6
    note = f"{ADAPTERS} adapters over 4 slots, 1 to 4 steps"
    return [
        Figure(f"black images of {IMAGES}", black, "", 0, note=note),
        Figure(f"errors of {IMAGES}", errors, "", 0),
        Figure(
            "memory growth after warm-up",
            growth,
            "MB",
            10,
            note=f"peak after {WARM_UP} images against peak before; {warm / 1e6:.0f} MB resident",
        ),
    ]


def _is_black(data: bytes) -> bool:
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=np.float32)
    return bool(pixels.mean() < 4 or pixels.std() < 1)
