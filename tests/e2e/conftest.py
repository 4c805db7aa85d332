"""Fixtures that run a whole service: server, manager, and a client."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from inference_server.config import EMBEDDED_MODEL
from inference_server.loading.load import load_model
from inference_server.loading.sources import open_source
from scripts.processes import Service
from tests.support.lora_files import make_lora
from tests.support.small_model import make_checkpoint
from tests.support.whole_service import FLEET, whole_service
from wuliart_client import Adapter, AdapterState, Client
from wuliart_lora.slot_layout import SegmentLayout

PATIENCE = 120.0
"""Time limit of a condition in seconds, for a busy machine; tests assert nothing about time."""


class LiveService:
    """A running service, its client, and its folder of adapters."""

    def __init__(self, service: Service, layout: SegmentLayout) -> None:
        self.service = service
        self.client = Client(service.listen)
        self.layout = layout

    @property
    def loras(self) -> Path:
        return self.service.loras

    def adapter_file(self, seed: int, rank: int = 4, scale: float = 0.3) -> bytes:
        """Returns an adapter file with a visible effect."""
        return make_lora(self.layout, rank=rank, seed=seed, scale=scale)

    def drop(self, name: str, data: bytes) -> None:
        """Adds an adapter file as careful programs do: writes it elsewhere, then renames it."""
        aside = self.loras.parent / f"{Path(name).name}.aside"
        aside.write_bytes(data)
        target = self.loras / f"{name}.safetensors"
        target.parent.mkdir(parents=True, exist_ok=True)
        aside.rename(target)

    def adapter(self, name: str) -> Adapter | None:
        return next((a for a in self.client.adapters() if a.name == name), None)

    def wait(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not happen within {PATIENCE:.0f} s"
            time.sleep(0.05)

    def wait_usable(self, name: str, content_hash: str = "") -> Adapter:
        def usable() -> bool:
            adapter = self.adapter(name)
            return (
                adapter is not None
                and adapter.state is not AdapterState.REFUSED
                and content_hash in ("", adapter.content_hash)
            )

        self.wait(usable, f"adapter {name} usable")
        adapter = self.adapter(name)
        assert adapter is not None
        return adapter

    def generate(
        self, *adapters: object, seed: int = 1, steps: int = 1, prompt: str = "a boat"
    ) -> bytes:
        """Generates an image without a recipe, so that equal pixels give equal files."""
        return self.client.generate_image(
            prompt, seed=seed, steps=steps, adapters=adapters, metadata=False, timeout=PATIENCE
        ).data

    def wait_attached(self, attached: bool = True) -> None:
        self.wait(
            lambda: self.client.info().lora_manager_connected is attached,
            "the manager attached" if attached else "the manager gone",
        )


@functools.cache
def layout_of(model: Path) -> SegmentLayout:
    return load_model(open_source(model, None), torch.device("cpu"), torch.float32).layout(32)


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A smaller model: an image of the embedded one takes two seconds, mostly for its size."""
    return EMBEDDED_MODEL if FLEET else make_checkpoint(tmp_path_factory.mktemp("small") / "model")


@contextmanager
def running(folder: Path, model: Path) -> Iterator[LiveService]:
    """Runs a service of a model."""
    service = whole_service(folder, model)
    live = LiveService(service, layout_of(model))
    try:
        service.start_server()
        service.start_manager()
        service.wait_until_ready()
        live.wait_attached()
        yield live
    finally:
        live.client.close()
        service.stop()


@pytest.fixture
def live(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Iterator[LiveService]:
    """A service on the small model, for tests that only compare images."""
    with running(tmp_path_factory.mktemp("live"), small_model) as live:
        yield live


@pytest.fixture
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """A service on the embedded model, slow enough to act in the middle of an image."""
    with running(tmp_path_factory.mktemp("live"), EMBEDDED_MODEL) as live:
        yield live
