"""The embedded model's VAE in its trainable form: stock modules on single frames, noisy latents.

A single frame meets only the last time slice of a causal 3-D kernel, so training runs on 2-D
convolutions; `to_stock` restores the 3-D kernels. Latents have 32 channels at 1/32 of the image's
edge, so that the transformer sees 256 tokens of 128 values. Training encodes with `PatchEncoder`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLQwenImage
from diffusers.models.autoencoders.autoencoder_kl_qwenimage import QwenImageCausalConv3d
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from training.encoder import PatchEncoder

SHAPE: dict[str, Any] = {
    "base_dim": 16,
    "z_dim": 32,
    "dim_mult": [1, 2, 4, 8, 8, 8],
    "num_res_blocks": 1,
    "temperal_downsample": [False] * 5,
    "latents_mean": [0.0] * 32,
    "latents_std": [1.0] * 32,
}
EPS = 1e-6
"""Added to the latents' variance."""


class FrameConv(nn.Module):
    """The 2-D equivalent of a causal 3-D convolution on a single frame [B, C, 1, H, W]."""

    def __init__(self, conv: QwenImageCausalConv3d) -> None:
        super().__init__()
        self.weight = nn.Parameter(conv.weight.detach()[:, :, -1].clone())
        self.bias = nn.Parameter(conv.bias.detach().clone())

    def forward(self, x: Tensor, cache: Tensor | None = None) -> Tensor:
        """Keeps the spatial size. `cache`, for further frames, is part of the stock signature."""
        padding = self.weight.shape[-1] // 2
        return F.conv2d(x[:, :, 0], self.weight, self.bias, padding=padding)[:, :, None]


def to_frames(module: nn.Module) -> None:
    """Replaces every causal 3-D convolution below `module` by a `FrameConv`."""
    for name, child in module.named_children():
        if isinstance(child, QwenImageCausalConv3d):
            setattr(module, name, FrameConv(child))
        else:
            to_frames(child)


class Autoencoder(nn.Module):
    """The stock VAE on single frames, with unit-variance latents that tolerate noise.

    The bottleneck is a batch norm and, in training, added noise, which forces the encoder to
    spread information over all channels with a margin. With a weak KL term instead, four
    directions held 99 % of the variance, and an error of 0.1 in them cost 3 dB: a small
    transformer cannot be that precise.
    """

    def __init__(self, shape: dict[str, Any] = SHAPE) -> None:
        super().__init__()
        self.vae = AutoencoderKLQwenImage(**shape)
        to_frames(self.vae)
        self.fast = PatchEncoder(SHAPE["z_dim"])
        self.norm = nn.BatchNorm2d(SHAPE["z_dim"], eps=EPS, affine=False, momentum=0.01)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the convolutions; the norm is always fp32."""
        return self.vae.dtype

    def encode(self, x: Tensor) -> Tensor:
        """Returns normalised latents [B, z, H/32, W/32], fp32, of images [B, 3, H, W] in -1..1."""
        return self.norm(self.fast(x).float())

    def encode_stock(self, x: Tensor) -> Tensor:
        """The same by the stock encoder, which is trained to agree."""
        moments = self.vae.quant_conv(self.vae.encoder(x[:, :, None]))[:, :, 0]
        mean, var = self.norm.running_mean, self.norm.running_var
        assert mean is not None and var is not None
        return (moments[:, : SHAPE["z_dim"]].float() - mean.view(-1, 1, 1)) / (
            var.view(-1, 1, 1) + EPS
        ).sqrt()

    def decode(self, z: Tensor) -> Tensor:
        """Returns images [B, 3, H, W] of normalised latents."""
        return self.vae.decoder(self.vae.post_quant_conv(z[:, :, None]))[:, :, 0]

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """Reconstructs `x` from latents with noise of standard deviation `noise` [B]."""
        z = self.encode(x)
        z = z + noise.view(-1, 1, 1, 1) * torch.randn_like(z)
        return self.decode(z.to(x.dtype))


def fill(model: Autoencoder, path: Path) -> None:
    """Loads a file that `training.vae` saved; missing or unknown keys are errors."""
    weights = load_file(path) | {"norm.num_batches_tracked": torch.zeros((), dtype=torch.long)}
    model.load_state_dict(weights)


def load(path: Path, device: torch.device) -> Autoencoder:
    """Loads the trained autoencoder for inference: bf16 on a GPU, else fp32; the norm in fp32."""
    model = Autoencoder()
    fill(model, path)
    for part in (model.vae, model.fast):
        nn.Module.to(part, torch.bfloat16 if device.type == "cuda" else torch.float32)
    return model.to(device).eval().requires_grad_(False)


def to_stock(weights: dict[str, Tensor], folder: Path) -> None:
    """Saves an `Autoencoder`'s weights as a stock checkpoint, without the fast encoder.

    The norm becomes latents_mean and latents_std of the config and is undone before the decoder.
    Time slices that a single frame never meets become zero.
    """
    mean, std = (
        weights["norm.running_mean"].double(),
        weights["norm.running_var"].double().add(EPS).sqrt(),
    )
    facts = {"latents_mean": mean.tolist(), "latents_std": std.tolist()}
    vae = AutoencoderKLQwenImage(**(SHAPE | facts))
    full = {}
    for name, tensor in vae.state_dict().items():
        trained = weights[f"vae.{name}"].to(tensor.dtype)
        if name == "post_quant_conv.weight":
            trained = (trained / std[:, None, None]).to(tensor.dtype)
        if name == "post_quant_conv.bias":
            kernel = weights["vae.post_quant_conv.weight"].double()[:, :, 0, 0]
            trained = (trained - kernel @ (mean / std)).to(tensor.dtype)
        full[name] = trained
        if tensor.dim() == 5:
            full[name] = torch.zeros_like(tensor)
            full[name][:, :, -1] = trained
    vae.load_state_dict(full)
    nn.Module.to(vae, torch.bfloat16)
    vae.save_pretrained(folder)
