"""The VAE's decoder at its real size with random weights, against stock; used by `parts`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLQwenImage
from torch import Tensor
from torch.nn import functional

from benchmarks.full_size.kernel_classes import breakdown, milliseconds
from inference_server.model.tiles import decode_in_tiles
from inference_server.model.upsampling import UpsampledConvolution
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
    return found | upsampling(config, device) | breakdown(works["whole"])


def upsampling(config: VaeConfig, device: torch.device) -> dict[str, float]:
    """Measures every upsampling of the decode in both forms; `VaeDecoder` uses one of them."""
    found: dict[str, float] = {}
    edge = 128
    for channels in config.channels[:-1]:
        x = torch.randn(1, channels, edge, edge, dtype=torch.bfloat16, device=device)
        kernel = torch.randn(channels // 2, channels, 3, 3, device=device) / (9 * channels) ** 0.5
        bias = torch.zeros(channels // 2, dtype=torch.bfloat16, device=device)
        x, plain = (
            t.to(torch.bfloat16).contiguous(memory_format=torch.channels_last) for t in (x, kernel)
        )
        found |= {
            f"upsampling {channels} at {edge}, {name}, ms": milliseconds(partial(form, x))
            for name, form in (
                ("enlarged", partial(enlarged, plain, bias)),
                ("four convolutions", UpsampledConvolution(kernel, bias)),
            )
        }
        edge *= 2
    return found


def enlarged(kernel: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    """Upsamples, then convolves."""
    large = functional.interpolate(x, scale_factor=2.0, mode="nearest-exact")
    return functional.conv2d(large, kernel, bias, padding=1)
