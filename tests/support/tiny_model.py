"""Tiny stock modules of the Qwen-Image architecture with random weights, saved as a checkpoint.

The stock classes are the oracle. Weights are scaled so that activations neither vanish nor grow.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel
from torch import nn

TRANSFORMER = {
    "num_layers": 2,
    "num_attention_heads": 2,
    "attention_head_dim": 32,
    "axes_dims_rope": (8, 12, 12),
    "joint_attention_dim": 48,
    "in_channels": 64,
    "out_channels": 16,
}

VAE = {
    "base_dim": 4,
    "z_dim": 16,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 1,
    "temperal_downsample": [False, True, True],
}


def randomise(module: nn.Module, seed: int, scale: float = 1.0) -> None:
    """Randomises parameters: matrices scaled by fan-in, vectors by noise added to their value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() >= 2:
                fan_in = parameter[0].numel()
                parameter.copy_(noise * scale / fan_in**0.5)
            else:
                parameter.add_(0.1 * noise)


def make_transformer(folder: Path, seed: int = 0) -> QwenImageTransformer2DModel:
    """Returns a stock transformer after saving it to `folder`."""
    model = QwenImageTransformer2DModel(**TRANSFORMER).eval()
    randomise(model, seed)
    model.save_pretrained(folder)
    return model


def make_vae(folder: Path, seed: int = 1) -> AutoencoderKLQwenImage:
    """Returns a stock VAE after saving it to `folder`."""
    model = AutoencoderKLQwenImage(**VAE).eval()
    randomise(model, seed)
    model.save_pretrained(folder)
    return model
