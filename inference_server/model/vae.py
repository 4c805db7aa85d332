"""The VAE's decoder for a single frame.

For one frame every causal 3-D convolution pads with zeros in front, so only the last time slice of
its kernel meets the image: it is exactly a 2-D convolution with a third of the weights. `time_conv`
layers act from the second frame on and are dropped. The encoder is not read. Source of the
arithmetic: diffusers `autoencoder_kl_qwenimage.py`, 0.42.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inference_server.errors import ModelError
from inference_server.model.config_values import ConfigValues
from inference_server.model.kernels.choice import operations_on
from inference_server.model.kernels.operations import Operations
from inference_server.model.upsampling import UpsampledConvolution

Layer = Callable[[Tensor], Tensor]

CONFIG_FILE = "vae/config.json"
PIXEL_CHANNELS = 3


class VaeTensors(Protocol):
    """The VAE's tensors by their names in the checkpoint."""

    where: Path
    """For messages."""

    def __contains__(self, name: str) -> bool: ...

    def __iter__(self) -> Iterator[str]: ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns a tensor's shape without reading it."""

    def read(self, name: str) -> Tensor:
        """Returns a tensor, in the dtype it is stored in."""


@dataclass(frozen=True, slots=True)
class VaeConfig:
    """Shape of the decoder and the statistics of its latents."""

    z: int
    """Latent channels."""
    channels: tuple[int, ...]
    """Channels of each level, from the coarsest to the finest."""
    res_blocks: int
    """Residual blocks of a level, less one."""
    spatial_factor: int
    """Pixels per latent pixel along one side."""
    mean: tuple[float, ...]
    """[z], subtracted from raw latents to normalise them."""
    std: tuple[float, ...]
    """[z], which raw latents are divided by."""

    @classmethod
    def from_json(cls, config: dict[str, Any]) -> VaeConfig:
        """Parses the component's config.json.

        Raises:
            ModelError: a value is missing, or the checkpoint needs layers this decoder lacks.
        """
        values = ConfigValues(CONFIG_FILE, config)
        if values.items("attn_scales", most=16):
            raise ModelError(f"{CONFIG_FILE} sets attn_scales, which Qwen-Image never does")
        multiples = values.integers("dim_mult", most=64)
        halvings = values.items("temperal_downsample", most=8)
        if not multiples or len(halvings) != len(multiples) - 1:
            raise values.wrong(
                "temperal_downsample", halvings, "one value fewer than dim_mult has levels"
            )
        z = values.integer("z_dim", most=512)
        std = values.numbers("latents_std", z)
        if min(std) < 1e-6:
            raise values.wrong("latents_std", min(std), "at least 1e-6")
        base = values.integer("base_dim", 96, most=1024)
        return cls(
            z=z,
            channels=tuple(base * multiple for multiple in reversed(multiples)),
            res_blocks=values.integer("num_res_blocks", least=0, most=16),
            spatial_factor=2 ** len(halvings),
            mean=values.numbers("latents_mean", z),
            std=std,
        )


class _ChannelNorm:
    """x / |x| * sqrt(C) * gamma over channels, then SiLU: starts every residual branch."""

    def __init__(self, gamma: Tensor, ops: Operations, activate: bool = True) -> None:
        self._gamma = gamma.flatten() * gamma.numel() ** 0.5
        self._ops = ops
        self._activate = activate

    def __call__(self, x: Tensor) -> Tensor:
        return self._ops.channel_norm(x, self._gamma, activate=self._activate)


class _ResidualBlock:
    def __init__(self, build: _Builder, path: str, inside: int, out: int) -> None:
        self._norm1 = build.norm(f"{path}.norm1", inside)
        self._conv1 = build.conv(f"{path}.conv1", inside, out, 3)
        self._norm2 = build.norm(f"{path}.norm2", out)
        self._conv2 = build.conv(f"{path}.conv2", out, out, 3)
        self._shortcut = None
        if inside != out:
            self._shortcut = build.conv(f"{path}.conv_shortcut", inside, out, 1)

    def __call__(self, x: Tensor) -> Tensor:
        h = self._conv2(self._norm2(self._conv1(self._norm1(x))))
        return h.add_(x if self._shortcut is None else self._shortcut(x))


class _Attention:
    """Single-head self-attention over all pixels of the coarsest level."""

    def __init__(self, build: _Builder, path: str, channels: int) -> None:
        self._norm = build.norm(f"{path}.norm", channels, activate=False)
        self._qkv = build.conv(f"{path}.to_qkv", channels, 3 * channels, 1)
        self._proj = build.conv(f"{path}.proj", channels, channels, 1)

    def __call__(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        qkv = self._qkv(self._norm(x)).permute(0, 2, 3, 1).flatten(1, 2)
        q, k, v = (t[:, None] for t in qkv.chunk(3, dim=-1))
        attended = F.scaled_dot_product_attention(q, k, v)[:, 0]
        return x + self._proj(attended.unflatten(1, (height, width)).permute(0, 3, 1, 2))


class _Upsample:
    """Nearest upsampling, then a convolution of the enlarged image."""

    def __init__(self, conv: Layer) -> None:
        self._conv = conv

    def __call__(self, x: Tensor) -> Tensor:
        return self._conv(F.interpolate(x, scale_factor=2.0, mode="nearest-exact"))


class _Builder:
    """Builds layers from the checkpoint; 3-D kernels are cut to their last time slice."""

    def __init__(self, weights: VaeTensors, device: torch.device, dtype: torch.dtype) -> None:
        self._weights, self._device, self._dtype = weights, device, dtype
        self._ops = operations_on(device)
        self.nbytes = 0

    def _read(self, name: str, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
        stored = self._weights.shape(name)
        # A norm's gamma is stored as [channels, 1, 1, 1], a 3-D kernel as [out, in, time, h, w].
        plain = stored[:2] + stored[-2:] if len(shape) == 4 and len(stored) == 5 else stored
        if plain[: len(shape)] != shape or set(plain[len(shape) :]) - {1}:
            raise ModelError(
                f"{self._weights.where}: {name} is {list(stored)}, {list(shape)} by "
                f"{CONFIG_FILE}: they are of different models, or one is damaged"
            )
        tensor = _flattened(self._weights.read(name))
        return tensor.to(device=self._device, dtype=dtype or self._dtype)

    def norm(self, path: str, channels: int, activate: bool = True) -> _ChannelNorm:
        gamma = self._read(f"{path}.gamma", (channels,))
        self.nbytes += gamma.nbytes
        return _ChannelNorm(gamma, self._ops, activate)

    def conv(self, path: str, inside: int, out: int, kernel: int) -> Layer:
        layer = nn.Conv2d(inside, out, kernel, padding=kernel // 2, device="meta")
        weight = self._read(f"{path}.weight", (out, inside, kernel, kernel))
        weight = weight.contiguous(memory_format=torch.channels_last)
        bias = self._read(f"{path}.bias", (out,))
        layer.weight = nn.Parameter(weight, requires_grad=False)
        layer.bias = nn.Parameter(bias, requires_grad=False)
        self.nbytes += weight.nbytes + bias.nbytes
        return layer

    def upsample(self, path: str, inside: int, out: int) -> Layer:
        # On a CPU the four small convolutions are 1.35 to 1.65 times as fast. On a GPU, where each
        # also writes to every second pixel, they are not measured, so the known form stays until
        # `python -m benchmarks.full_size parts vae` shows "four convolutions" to be faster.
        if self._device.type == "cuda":
            return _Upsample(self.conv(path, inside, out, 3))
        kernel = self._read(f"{path}.weight", (out, inside, 3, 3), torch.float32)
        layer = UpsampledConvolution(kernel, self._read(f"{path}.bias", (out,)))
        self.nbytes += layer.nbytes
        return layer


def decoder_tensors(weights: VaeTensors) -> dict[str, Tensor]:
    """Returns every tensor that the decoder reads, kernels cut to two dimensions, for storing."""
    names = [
        name
        for name in weights
        if name.startswith(("decoder.", "post_quant_conv.")) and ".time_conv." not in name
    ]
    return {name: _flattened(weights.read(name)) for name in names}


def _flattened(weight: Tensor) -> Tensor:
    """Returns a 3-D kernel's last time slice, and any other tensor unchanged."""
    return weight[:, :, -1] if weight.dim() == 5 else weight


class VaeDecoder:
    """Decodes normalised latents to pixels.

    Args:
        config: its shape.
        weights: the checkpoint's tensors.
        device: the device.
        dtype: of weights and activations.

    Raises:
        ModelError: the checkpoint lacks a layer, or one has another shape than the config says.
    """

    def __init__(
        self, config: VaeConfig, weights: VaeTensors, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.config = config
        build = _Builder(weights, device, dtype)
        if f"decoder.up_blocks.0.resnets.{config.res_blocks + 1}.conv1.weight" in weights:
            raise ModelError(
                f"{weights.where} holds more residual blocks than {CONFIG_FILE} announces, "
                f"{config.res_blocks}: they are of different models, or one is damaged"
            )
        channels = config.channels[0]
        layers: list[Layer] = [
            build.conv("post_quant_conv", config.z, config.z, 1),
            build.conv("decoder.conv_in", config.z, channels, 3),
        ]
        middle = "decoder.mid_block"
        layers.append(_ResidualBlock(build, f"{middle}.resnets.0", channels, channels))
        layers.append(_Attention(build, f"{middle}.attentions.0", channels))
        layers.append(_ResidualBlock(build, f"{middle}.resnets.1", channels, channels))
        for level, out in enumerate(config.channels):
            path = f"decoder.up_blocks.{level}"
            for n in range(config.res_blocks + 1):
                layers.append(_ResidualBlock(build, f"{path}.resnets.{n}", channels, out))
                channels = out
            if level < len(config.channels) - 1:
                resampled = f"{path}.upsamplers.0.resample.1"
                layers.append(build.upsample(resampled, channels, channels // 2))
                channels //= 2
        layers.append(build.norm("decoder.norm_out", channels))
        layers.append(build.conv("decoder.conv_out", channels, PIXEL_CHANNELS, 3))
        self._layers = layers
        self.nbytes = build.nbytes
        self._mean = torch.tensor(config.mean, device=device).view(1, -1, 1, 1)
        self._std = torch.tensor(config.std, device=device).view(1, -1, 1, 1)
        self._dtype = dtype

    def decode(self, latents: Tensor) -> Tensor:
        """Decodes one image.

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
