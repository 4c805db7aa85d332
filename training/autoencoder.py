"""The embedded model's VAE as it is trained: stock modules, frame by frame, a noisy bottleneck.

Owns its shape and the way to the stock format. A single frame meets only the last time slice of a
causal 3-D kernel, so everything here runs on 2-D convolutions; `to_stock` puts the slices back.

The shape: 32x smaller latents of 32 channels, so that the transformer sees 256 tokens of 128.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKLQwenImage
from diffusers.models.autoencoders.autoencoder_kl_qwenimage import QwenImageCausalConv3d
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

SHAPE = {
    "base_dim": 16,
    "z_dim": 32,
    "dim_mult": [1, 2, 4, 8, 8, 8],
    "num_res_blocks": 2,
    "temperal_downsample": [False] * 5,
    "latents_mean": [0.0] * 32,
    "latents_std": [1.0] * 32,
}
EPS = 1e-6
"""Added to the latents' variance."""


class FrameConv(nn.Module):
    """A causal 3-D convolution as one frame meets it: 2-D, on [B, C, 1, H, W]."""

    def __init__(self, conv: QwenImageCausalConv3d) -> None:
        super().__init__()
        self.weight = nn.Parameter(conv.weight.detach()[:, :, -1].clone())
        self.bias = nn.Parameter(conv.bias.detach().clone())

    def forward(self, x: Tensor, cache: Tensor | None = None) -> Tensor:
        """Same spatial size; `cache` is for further frames and never given."""
        padding = self.weight.shape[-1] // 2
        return F.conv2d(x[:, :, 0], self.weight, self.bias, padding=padding)[:, :, None]


def to_frames(module: nn.Module) -> None:
    """Replaces every causal 3-D convolution below `module` by its frame form."""
    for name, child in module.named_children():
        if isinstance(child, QwenImageCausalConv3d):
            setattr(module, name, FrameConv(child))
        else:
            to_frames(child)


class Autoencoder(nn.Module):
    """The stock VAE on single frames, with unit-variance latents that withstand noise.

    The bottleneck is a batch norm and, in training, noise: what the decoder must not lose has to
    be spread over all channels with a margin. Without it (a faint KL instead) four directions held
    99 % of the variance and an error of 0.1 in them cost 3 dB: nothing a small transformer draws
    is that precise.
    """

    def __init__(self) -> None:
        super().__init__()
        self.vae = AutoencoderKLQwenImage(**SHAPE)
        to_frames(self.vae)
        self.norm = nn.BatchNorm2d(SHAPE["z_dim"], eps=EPS, affine=False, momentum=0.01)

    @property
    def dtype(self) -> torch.dtype:
        """Of the convolutions; the norm is always fp32."""
        return self.vae.dtype

    def encode(self, x: Tensor) -> Tensor:
        """Normalised latents [B, z, H/32, W/32], fp32."""
        moments = self.vae.quant_conv(self.vae.encoder(x[:, :, None]))[:, :, 0]
        return self.norm(moments[:, : SHAPE["z_dim"]].float())

    def decode(self, z: Tensor) -> Tensor:
        """Of normalised latents, [B, 3, H, W]."""
        return self.vae.decoder(self.vae.post_quant_conv(z[:, :, None]))[:, :, 0]

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """Reconstruction with noise of standard deviation `noise` [B] on the latents."""
        z = self.encode(x)
        z = z + noise.view(-1, 1, 1, 1) * torch.randn_like(z)
        return self.decode(z.to(x.dtype))


def fill(model: Autoencoder, path: Path) -> None:
    """Loads what `training.vae` saved; all of it, and nothing may be missing."""
    weights = load_file(path) | {"norm.num_batches_tracked": torch.zeros((), dtype=torch.long)}
    model.load_state_dict(weights)


def load(path: Path, device: torch.device) -> Autoencoder:
    """The trained autoencoder for inference: bf16 on a GPU, fp32 elsewhere, norm in fp32."""
    model = Autoencoder()
    fill(model, path)
    nn.Module.to(model.vae, torch.bfloat16 if device.type == "cuda" else torch.float32)
    return model.to(device).eval().requires_grad_(False)


def to_stock(weights: dict[str, Tensor], folder: Path) -> None:
    """Saves an `Autoencoder`'s weights as a stock checkpoint.

    The norm becomes latents_mean and latents_std of the config and is undone before the decoder;
    slices that a frame never meets are zero.
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
