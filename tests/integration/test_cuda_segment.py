"""The segment in a GPU's memory, written by the manager; skipped without a GPU."""

from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
import pytest
import torch
import xxhash

from inference_server.adapters.device_memory import DeviceMemory
from inference_server.adapters.segment import AdapterSegment
from inference_server.config import EMBEDDED_MODEL
from inference_server.loading.load import load_model
from inference_server.loading.sources import open_source
from lora_manager.device_mapping import PIECE_BYTES, DeviceMapping, DeviceUnavailableError
from scripts.processes import Service
from tests.support.lora_files import make_lora
from wuliart_client import AdapterState, Client
from wuliart_lora.slot_layout import LayoutParameters, SegmentLayout

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

CUDA = torch.device("cuda:0")
LAYOUT = SegmentLayout(LayoutParameters(16, 1024, 4096, 64, 64, 48, 16, 10, 32, "bfloat16"))
PROMPT = "a red lighthouse 在海边 at dusk"


def generate_adapted(folder: Path, inject: str, kill: bool = False) -> bytes:
    """Generates with an adapter that the real manager loaded, and checks how it was injected."""
    service = Service(
        folder / "run",
        folder / "loras",
        server_arguments=["--device", "cuda"],
        manager_arguments=["--inject", inject],
    )
    service.start_server()
    service.start_manager()
    try:
        service.wait_until_ready()
        layout = load_model(
            open_source(EMBEDDED_MODEL, None), torch.device("cpu"), torch.bfloat16
        ).layout(32)
        with Client(service.listen) as client, client.watch(timeout=60) as changes:
            next(changes)
            data = make_lora(layout, rank=8, scale=0.3)
            (service.loras / "ink.safetensors").write_bytes(data)
            for change in changes:
                assert change.adapters[0].state is not AdapterState.REFUSED
                if change.adapters[0].state is AdapterState.RESIDENT:
                    break
            plain = client.generate_image(PROMPT, seed=1, metadata=False)
            if kill:
                service.processes["manager"].kill()
                service.processes["manager"].wait()
                del service.processes["manager"]
            adapted = client.generate_image(PROMPT, seed=1, adapters=["ink"], metadata=False)
            assert adapted.data != plain.data
    finally:
        service.stop()
    log = (service.runtime_dir / "manager.log").read_text(encoding="utf-8")
    assert ("into the GPU's memory" in log) == (inject == "direct")
    return adapted.data


def test_both_ways_to_inject_give_the_same_image_and_survive_a_killed_manager(
    tmp_path: Path,
) -> None:
    staged = generate_adapted(tmp_path / "staged", "staged")
    assert generate_adapted(tmp_path / "direct", "direct", kill=True) == staged


async def test_writes_on_the_device_and_their_checksum() -> None:
    segment = AdapterSegment(LAYOUT, 3, CUDA)
    uuid = segment.open(direct=True)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        writer = DeviceMapping(segment.descriptor, segment.nbytes, theirs, uuid)
        size = LAYOUT.slot_bytes - 12_345
        assert size > 2 * PIECE_BYTES
        data = np.random.default_rng(0).integers(0, 256, size, np.uint8)
        assert not await writer.write(segment.offset(1), data, lambda: False)
        assert await writer.write(segment.offset(1), data, lambda: True)
        expected = xxhash.xxh3_128(data.tobytes()).digest()
        assert segment.checksum(1, size) == expected
        assert segment.checksum(0, size) != expected
        segment._arena[segment.offset(1) + size - 1] ^= 1
        assert segment.checksum(1, size) != expected
        segment._arena[segment.offset(1) + size - 1] ^= 1
        await writer.close()
    assert segment.checksum(1, size) == expected, "the memory outlives its writer"
    segment.zero(1)
    torch.cuda.synchronize()
    assert not segment._arena[segment.offset(1) : segment.offset(2)].any()
    assert segment.open(direct=False) == b""


def test_memory_of_another_gpu_is_an_error() -> None:
    memory = DeviceMemory(2 << 20, CUDA)
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(DeviceUnavailableError, match="none of the"):
        DeviceMapping(memory.descriptor, 2 << 20, theirs, bytes(16))


def test_a_descriptor_of_a_file_is_an_error(tmp_path: Path) -> None:
    memory = DeviceMemory(2 << 20, CUDA)
    ours, theirs = socket.socketpair()
    refused = pytest.raises(DeviceUnavailableError, match="cuMemImport")
    with (tmp_path / "file").open("wb") as file, ours, theirs, refused:
        DeviceMapping(file.fileno(), 2 << 20, theirs, memory.uuid)
