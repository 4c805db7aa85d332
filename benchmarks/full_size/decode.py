"""The VAE's decoder at its real size with random weights, against stock; used by `parts`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLQwenImage
from torch import Tensor

from benchmarks.full_size.kernel_classes import breakdown, milliseconds
from inference_server.model.tiles import decode_in_tiles
from inference_server.model.vae import VaeConfig, VaeDecoder


class _Weights:
    """A module's tensors as `VaeTensors`."""

    def __init__(self, module: Any) -> None:
        self.where = Path("random")
        self._state: dict[str, Tensor] = dict(module.state_dict())

    def __contains__(self, name: str) -> bool:
        return name in self._state

    def __iter__(self) -> Iterator[str]:
        return iter(self._state)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._state[name].shape)

    def read(self, name: str) -> Tensor:
        return self._state[name]


def decode(device: torch.device) -> dict[str, float]:
    """Measures time, memory and difference of stock, the whole decode and four tiles."""
    with torch.inference_mode(False), device:
        stock: Any = AutoencoderKLQwenImage()
    stock.to(torch.bfloat16).requires_grad_(False).eval()
    config = VaeConfig.from_json(json.loads(stock.to_json_string()))
    vae = VaeDecoder(config, _Weights(stock), device, torch.bfloat16)
    latents = torch.randn(1, 16, 128, 128, device=device)
    scale = torch.tensor(config.std, device=device).view(1, -1, 1, 1, 1)
    mean = torch.tensor(config.mean, device=device).view(1, -1, 1, 1, 1)
    given = (latents[:, :, None] * scale + mean).to(torch.bfloat16)

    def tiles() -> Tensor:
        return decode_in_tiles(vae.decode, latents, config.spatial_factor)

    works = {
        "stock": lambda: stock.decode(given, return_dict=False)[0][:, :, 0],
        "whole": lambda: vae.decode(latents),
        "four tiles": tiles,
    }
    found: dict[str, float] = {}
    images = {}
    for name, work in works.items():
        images[name] = work().float()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        found[f"{name}, ms"] = milliseconds(work)
        found[f"{name}, peak GB"] = (torch.cuda.max_memory_allocated() - before) / 1e9
    for a, b in (("stock", "whole"), ("whole", "four tiles")):
        error = (images[a].clamp(-1, 1) - images[b]).square().mean()
        found[f"{b} against {a}, dB"] = float(10 * torch.log10(4 / error))
    return found | breakdown(works["whole"])
