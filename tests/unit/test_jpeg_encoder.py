"""The choice of the JPEG encoder: nvJPEG if it works, else Pillow, and the log says which."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image

from inference_server.engine import jpeg


@pytest.fixture(autouse=True)
def tried_anew() -> Iterator[None]:
    jpeg.on_gpu.cache_clear()
    yield
    jpeg.on_gpu.cache_clear()


def pretend(monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> None:
    """Pretends that there is a GPU and that encoding on it ends so."""

    def encode(pixels: object) -> bytes:
        if error is not None:
            raise error
        return b""

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: None)
    monkeypatch.setattr(jpeg, "_encode_on_gpu", encode)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (None, "JPEG encoder: nvJPEG"),
        (ModuleNotFoundError("No module named 'torchvision'"), "No module named 'torchvision'"),
        (RuntimeError("Failed to create nvjpeg handle: 1"), "Failed to create nvjpeg handle: 1"),
    ],
)
def test_the_log_names_the_encoder_once(
    error: Exception | None,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pretend(monkeypatch, error)
    caplog.set_level("INFO", logger=jpeg.__name__)
    assert [jpeg.on_gpu(), jpeg.on_gpu()] == [error is None] * 2
    (record,) = caplog.records
    assert said in record.getMessage()
    assert (record.levelname == "WARNING") is (error is not None)


def test_without_a_gpu_pillow_encodes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    caplog.set_level("INFO", logger=jpeg.__name__)
    assert not jpeg.on_gpu()
    assert "Pillow" in caplog.text
    grey = torch.full((32, 48, 3), 128, dtype=torch.uint8)
    image = Image.open(io.BytesIO(jpeg.encode_image(grey)))
    assert image.size == (48, 32)
    assert np.abs(np.asarray(image).astype(int) - 128).max() <= 1
