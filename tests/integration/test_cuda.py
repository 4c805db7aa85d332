"""The engine and the whole service on a GPU; skipped without one."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inference_server.config import EMBEDDED_MODEL
from inference_server.engine import jpeg
from inference_server.engine.engine import Engine
from inference_server.loading.load import load_model
from inference_server.loading.sources import open_source
from scripts.processes import Service
from tests.support.lora_files import make_lora
from wuliart_client import AdapterState, Client

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

PROMPT = "a red lighthouse 在海边 at dusk"


def generate(engine: Engine) -> np.ndarray:
    latent_image = engine.begin(engine.encode(PROMPT), 7, 4)
    for _ in range(4):
        engine.step([latent_image])
    return engine.decode(latent_image).cpu().numpy().astype(np.float32)


def load(device: str, dtype: torch.dtype) -> Engine:
    return Engine(load_model(open_source(EMBEDDED_MODEL, None), torch.device(device), dtype))


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(np.mean((a - b) ** 2), 1e-9)))


def test_a_seed_gives_the_same_image_on_every_device() -> None:
    reference = generate(load("cpu", torch.float32))
    in_float32 = psnr(generate(load("cuda:0", torch.float32)), reference)
    in_bfloat16 = psnr(generate(load("cuda:0", torch.bfloat16)), reference)
    print(f"float32 {in_float32:.1f} dB, bfloat16 {in_bfloat16:.1f} dB")
    assert in_float32 > 45
    assert in_bfloat16 > 25


def test_a_jpeg_encoded_on_the_gpu_is_like_pillows() -> None:
    if not jpeg.on_gpu():
        pytest.skip("needs torchvision")
    rng = np.random.default_rng(0)
    smooth = np.kron(rng.integers(0, 256, (16, 16, 3)), np.ones((64, 64, 1)))
    pixels = torch.tensor(smooth.astype(np.uint8))
    there, here = (
        Image.open(io.BytesIO(jpeg.encode_image(x, "text"))) for x in (pixels.cuda(), pixels)
    )
    assert there.size == here.size == (1024, 1024)
    assert there.layer == here.layer  # type: ignore[attr-defined] # components and their sampling
    assert there.getexif() == here.getexif()
    for image in (there, here):
        assert psnr(np.asarray(image).astype(np.float32), smooth.astype(np.float32)) > 35


def test_no_prompt_length_compiles_kernels_after_the_first_image() -> None:
    from inference_server.model.kernels import triton_attention, triton_norms, triton_ops

    modules = (triton_attention, triton_norms, triton_ops)
    kernels = [k for m in modules for k in vars(m).values() if hasattr(k, "device_caches")]
    assert len(kernels) == 5

    def compiled() -> int:
        return sum(len(kernel.device_caches[0][0]) for kernel in kernels)

    engine = load("cuda:0", torch.bfloat16)
    generate(engine)
    before = compiled()
    assert before > 0
    for words in (0, 1, 2, 7, 15, 16, 17, 63, 100, 505, 600):
        latent_image = engine.begin(engine.encode("sea " * words + "x"), 1, 1)
        engine.step([latent_image])
        engine.check_finite(latent_image)
    assert compiled() == before


def test_server_and_manager_with_staged_slots(tmp_path: Path) -> None:
    service = Service(tmp_path / "run", tmp_path / "loras", server_arguments=["--device", "cuda"])
    service.start_server()
    service.start_manager()
    try:
        service.wait_until_ready()
        layout = load("cpu", torch.bfloat16).model.layout(32)
        with Client(service.listen) as client:
            info = client.info()
            assert (info.device.kind, info.device.dtype) == ("cuda", "bfloat16")
            plain = client.generate_image(PROMPT, seed=1, metadata=False)
            with client.watch(timeout=60) as changes:
                next(changes)
                data = make_lora(layout, rank=8, scale=0.3)
                (service.loras / "ink.safetensors").write_bytes(data)
                for change in changes:
                    assert change.adapters[0].state is not AdapterState.REFUSED
                    if change.adapters[0].state is AdapterState.RESIDENT:
                        break
            adapted = client.generate_image(PROMPT, seed=1, adapters=["ink"], metadata=False)
            again = client.generate_image(PROMPT, seed=1, metadata=False)
            print(plain.timings, adapted.timings)
        assert adapted.data != plain.data
        assert again.data == plain.data
    finally:
        codes = service.stop()
    assert codes == {"manager": 0, "server": 0}
