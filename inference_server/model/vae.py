"""The VAE's decoder for a single frame.

Owns the decode of packed latents to pixels; the encoder is never read. For one frame every causal
3-D convolution pads with zeros in front, so only the last time slice of its kernel meets the
picture: it is exactly a 2-D convolution with a third of the weights. `time_conv` layers act from
the second frame on and are dropped. Source of the arithmetic: diffusers
`autoencoder_kl_qwenimage.py`, 0.42.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inference_server.errors import ModelError
from inference_server.model.checkpoint import WeightFiles
from inference_server.model.ops import Ops, ops_on

Layer = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class VaeConfig:
    """Shape of the decoder and the statistics of its latents."""

    z: int
    levels: int
    res_blocks: int
    spatial_factor: int
    """Pixels per latent pixel along one side."""
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def from_json(cls, config: dict[str, Any]) -> VaeConfig:
        """From the component's config.json.

        Raises:
            ModelError: a value is missing, or the checkpoint needs layers this decoder lacks.
        """
        try:
            if config["attn_scales"]:
                raise ModelError("vae/config.json sets attn_scales, which Qwen-Image never does")
            return cls(
                z=config["z_dim"],
                levels=len(config["dim_mult"]),
                res_blocks=config["num_res_blocks"],
                spatial_factor=2 ** len(config["temperal_downsample"]),
                mean=tuple(config["latents_mean"]),
                std=tuple(config["latents_std"]),
            )
        except KeyError as error:
            raise ModelError(f"vae/config.json lacks {error}") from None


class _ChannelNorm:
    """x / |x| * sqrt(C) * gamma over channels, then SiLU: how every residual branch begins."""

    def __init__(self, gamma: Tensor, ops: Ops, activate: bool = True) -> None:
        self._gamma = gamma.flatten() * gamma.numel() ** 0.5
        self._ops = ops
        self._activate = activate

    def __call__(self, x: Tensor) -> Tensor:
        return self._ops.channel_norm(x, self._gamma, self._activate)


class _ResidualBlock:
    def __init__(self, build: _Builder, path: str) -> None:
        self._norm1 = build.norm(f"{path}.norm1")
        self._conv1 = build.conv(f"{path}.conv1")
        self._norm2 = build.norm(f"{path}.norm2")
        self._conv2 = build.conv(f"{path}.conv2")
        has_shortcut = build.has(f"{path}.conv_shortcut.weight")
        self._shortcut = build.conv(f"{path}.conv_shortcut") if has_shortcut else None

    def __call__(self, x: Tensor) -> Tensor:
        h = self._conv2(self._norm2(self._conv1(self._norm1(x))))
        return h.add_(x if self._shortcut is None else self._shortcut(x))


class _Attention:
    """Single-head self-attention over all pixels of the coarsest level."""

    def __init__(self, build: _Builder, path: str) -> None:
        self._norm = build.norm(f"{path}.norm", activate=False)
        self._qkv = build.conv(f"{path}.to_qkv")
        self._proj = build.conv(f"{path}.proj")

    def __call__(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        qkv = self._qkv(self._norm(x)).permute(0, 2, 3, 1).flatten(1, 2)
        q, k, v = (t[:, None] for t in qkv.chunk(3, dim=-1))
        attended = F.scaled_dot_product_attention(q, k, v)[:, 0]
        return x + self._proj(attended.unflatten(1, (height, width)).permute(0, 3, 1, 2))


class _Upsample:
    def __init__(self, build: _Builder, path: str) -> None:
        self._conv = build.conv(f"{path}.resample.1")

    def __call__(self, x: Tensor) -> Tensor:
        return self._conv(F.interpolate(x, scale_factor=2.0, mode="nearest-exact"))


class _Builder:
    """Reads layers of the checkpoint, 3-D kernels cut to their last time slice."""

    def __init__(self, weights: WeightFiles, device: torch.device, dtype: torch.dtype) -> None:
        self._weights, self._device, self._dtype = weights, device, dtype
        self._ops = ops_on(device)
        self.nbytes = 0

    def has(self, name: str) -> bool:
        return name in self._weights

    def _read(self, name: str) -> Tensor:
        tensor = self._weights.read(name).to(device=self._device, dtype=self._dtype)
        self.nbytes += tensor.nbytes
        return tensor

    def norm(self, path: str, activate: bool = True) -> _ChannelNorm:
        return _ChannelNorm(self._read(f"{path}.gamma"), self._ops, activate)

    def conv(self, path: str) -> Layer:
        weight = _flattened(self._weights.read(f"{path}.weight"))
        out_channels, in_channels, kernel, _ = weight.shape
        layer = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, device="meta")
        weight = weight.to(device=self._device, dtype=self._dtype)
        weight = weight.contiguous(memory_format=torch.channels_last)
        layer.weight = nn.Parameter(weight, requires_grad=False)
        layer.bias = nn.Parameter(self._read(f"{path}.bias"), requires_grad=False)
        self.nbytes += weight.nbytes
        return layer


def decoder_tensors(weights: WeightFiles) -> dict[str, Tensor]:
    """All that the decoder reads, kernels cut to two dimensions; for storing it."""
    names = [
        name
        for name in weights
        if name.startswith(("decoder.", "post_quant_conv.")) and ".time_conv." not in name
    ]
    return {name: _flattened(weights.read(name)) for name in names}


def _flattened(weight: Tensor) -> Tensor:
    """A 3-D kernel's last time slice; everything else as it is."""
    return weight[:, :, -1] if weight.dim() == 5 else weight


class VaeDecoder:
    """Normalised latents in, pixels out.

    Raises:
        ModelError: the checkpoint lacks a layer.
    """

    def __init__(
        self, config: VaeConfig, weights: WeightFiles, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.config = config
        build = _Builder(weights, device, dtype)
        layers: list[Layer] = [build.conv("post_quant_conv"), build.conv("decoder.conv_in")]
        middle = "decoder.mid_block"
        layers.append(_ResidualBlock(build, f"{middle}.resnets.0"))
        layers.append(_Attention(build, f"{middle}.attentions.0"))
        layers.append(_ResidualBlock(build, f"{middle}.resnets.1"))
        for level in range(config.levels):
            path = f"decoder.up_blocks.{level}"
            layers += [
                _ResidualBlock(build, f"{path}.resnets.{n}") for n in range(config.res_blocks + 1)
            ]
            if level < config.levels - 1:
                layers.append(_Upsample(build, f"{path}.upsamplers.0"))
        layers += [build.norm("decoder.norm_out"), build.conv("decoder.conv_out")]
        self._layers = layers
        self.nbytes = build.nbytes
        self._mean = torch.tensor(config.mean, device=device).view(1, -1, 1, 1)
        self._std = torch.tensor(config.std, device=device).view(1, -1, 1, 1)
        self._dtype = dtype

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels of one picture.

        Args:
            latents: [1, z, h, w] float32, normalised (mean 0, std 1 per channel).

        Returns:
            [1, 3, h * spatial_factor, w * spatial_factor] in [-1, 1].
        """
        x = (latents * self._std + self._mean).to(self._dtype)
        x = x.contiguous(memory_format=torch.channels_last)
        for layer in self._layers:
            x = layer(x)
        return x.clamp_(-1.0, 1.0)
