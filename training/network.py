"""The transformer in its trainable form, with the module names of the stock one.

The forward pass takes a batch with one noise level per image. Rotations are real-valued, because
compilers handle complex numbers badly. There is no mask, which would select a slower attention
kernel: all prompts of a batch have the same length. The state_dict matches the stock
`QwenImageTransformer2DModel`, and peft finds the stock names.
Source of the arithmetic: diffusers `transformer_qwenimage.py`, 0.42.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inference_server.model.rope import image_rotation, text_rotation

SHAPE: dict[str, Any] = {
    "patch_size": 2,
    "in_channels": 128,
    "out_channels": 32,
    "num_layers": 8,
    "attention_head_dim": 56,
    "num_attention_heads": 4,
    "joint_attention_dim": 256,
    "axes_dims_rope": [16, 20, 20],
}
GRID = (16, 16)
"""Rows and columns of image tokens at 1024 px: 32 px per latent, two latents per token."""

TOKENS = (GRID[0] * GRID[1], SHAPE["in_channels"])
"""Shape of one image's packed latents."""

TEXT_TOKENS = 128
"""Maximum number of tokens of a training prompt, including the template's suffix."""

EPS = 1e-6


class RMSNorm(nn.Module):
    """Root-mean-square norm with a weight, over the last dimension."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), EPS)


class Attention(nn.Module):
    """Weights of joint attention; `Block` does the arithmetic."""

    def __init__(self, width: int, head_dim: int) -> None:
        super().__init__()
        self.norm_q, self.norm_k = RMSNorm(head_dim), RMSNorm(head_dim)
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width), nn.Identity()])
        self.add_q_proj, self.add_k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.add_v_proj, self.to_add_out = nn.Linear(width, width), nn.Linear(width, width)
        self.norm_added_q, self.norm_added_k = RMSNorm(head_dim), RMSNorm(head_dim)


class Projection(nn.Module):
    """A linear layer named `proj`, followed by GELU."""

    def __init__(self, features: int, out: int) -> None:
        super().__init__()
        self.proj = nn.Linear(features, out)

    def forward(self, x: Tensor) -> Tensor:
        """Returns GELU (tanh form) of the projection."""
        return F.gelu(self.proj(x), approximate="tanh")


class FeedForward(nn.Module):
    """Two linear layers with GELU between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        up, down = Projection(width, 4 * width), nn.Linear(4 * width, width)
        self.net = nn.Sequential(up, nn.Identity(), down)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return self.net(x)


def _stacked(x: Tensor, *layers: nn.Module) -> tuple[Tensor, ...]:
    """Applies several linear layers of one shape to `x`; plain ones as one product."""
    if not all(isinstance(layer, nn.Linear) for layer in layers):
        return tuple(layer(x) for layer in layers)
    weight = torch.cat([layer.weight for layer in layers])
    bias = torch.cat([layer.bias for layer in layers])
    return F.linear(x, weight, bias).chunk(len(layers), -1)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates adjacent pairs of [B, T, heads, head_dim] by angles [T, 1, head_dim / 2]."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    pair = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    return pair.flatten(-2).to(x.dtype)


class Block(nn.Module):
    """One double-stream block."""

    def __init__(self, width: int, head_dim: int) -> None:
        super().__init__()
        self.img_mod = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.txt_mod = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.attn = Attention(width, head_dim)
        self.img_mlp, self.txt_mlp = FeedForward(width), FeedForward(width)
        self.head_dim = head_dim

    def forward(
        self, img: Tensor, txt: Tensor, time: Tensor, rotation: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Returns both streams, [B, T, width]; the rotation covers text, then image tokens."""
        attn = self.attn
        img_mod = self.img_mod(time)[:, None].chunk(6, dim=-1)
        txt_mod = self.txt_mod(time)[:, None].chunk(6, dim=-1)
        i, t = _modulate(img, *img_mod[:2]), _modulate(txt, *txt_mod[:2])

        def heads(x: Tensor) -> Tensor:
            return x.unflatten(-1, (-1, self.head_dim))

        q, k, v = (heads(x) for x in _stacked(i, attn.to_q, attn.to_k, attn.to_v))
        q2, k2, v2 = (
            heads(x) for x in _stacked(t, attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
        )
        q = torch.cat([attn.norm_added_q(q2), attn.norm_q(q)], 1)
        k = torch.cat([attn.norm_added_k(k2), attn.norm_k(k)], 1)
        v = torch.cat([v2, v], 1)
        q, k = _rotate(q, *rotation), _rotate(k, *rotation)
        q, k, v = (x.transpose(1, 2).to(v.dtype) for x in (q, k, v))
        joint = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        tokens = txt.shape[1]
        img = img + img_mod[2] * attn.to_out[0](joint[:, tokens:])
        txt = txt + txt_mod[2] * attn.to_add_out(joint[:, :tokens])
        img = img + img_mod[5] * self.img_mlp(_modulate(img, *img_mod[3:5]))
        txt = txt + txt_mod[5] * self.txt_mlp(_modulate(txt, *txt_mod[3:5]))
        return img, txt


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    normed = F.layer_norm(x, x.shape[-1:], eps=EPS)
    return normed * (1 + scale) + shift


class TimestepEmbedder(nn.Module):
    """Two linear layers over 256 sines and cosines."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(256, width), nn.Linear(width, width)

    def forward(self, sigma: Tensor) -> Tensor:
        """Embeds noise levels [B] in 0..1 to [B, width]."""
        frequencies = torch.exp(torch.arange(128, device=sigma.device) * (-math.log(10_000) / 128))
        angles = sigma[:, None] * 1000 * frequencies
        sines = torch.cat([angles.cos(), angles.sin()], dim=-1)
        return self.linear_2(F.silu(self.linear_1(sines)))


class Network(nn.Module):
    """The transformer; `shape` holds the keyword arguments of the stock module."""

    def __init__(self, shape: dict[str, Any] = SHAPE) -> None:
        super().__init__()
        heads, head_dim = shape["num_attention_heads"], shape["attention_head_dim"]
        width = heads * head_dim
        self.heads, self.shape = heads, shape
        self.time_text_embed = nn.Module()
        self.time_text_embed.timestep_embedder = TimestepEmbedder(width)
        self.txt_norm = RMSNorm(shape["joint_attention_dim"])
        self.img_in = nn.Linear(shape["in_channels"], width)
        self.txt_in = nn.Linear(shape["joint_attention_dim"], width)
        self.transformer_blocks = nn.ModuleList(
            Block(width, head_dim) for _ in range(shape["num_layers"])
        )
        self.norm_out = nn.Module()
        self.norm_out.linear = nn.Linear(width, 2 * width)
        self.proj_out = nn.Linear(width, shape["patch_size"] ** 2 * shape["out_channels"])
        axes = tuple(shape["axes_dims_rope"])
        text, image = text_rotation(TEXT_TOKENS, *GRID, axes), image_rotation(*GRID, axes)
        for name, table in (("cos", 0), ("sin", 1)):
            self.register_buffer(f"text_{name}", text[table][:, None], persistent=False)
            self.register_buffer(f"image_{name}", image[table][:, None], persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        """Initialises with Xavier; modulation and output start at zero (Peebles and Xie, 2023)."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for block in self.transformer_blocks:
            nn.init.zeros_(block.img_mod[1].weight)
            nn.init.zeros_(block.txt_mod[1].weight)
        nn.init.zeros_(self.norm_out.linear.weight)
        nn.init.zeros_(self.proj_out.weight)

    def compile_blocks(self) -> None:
        """Compiles the code of one block for all blocks.

        This takes seconds; compiling the whole network took a minute, and again for longer
        prompts. The prompt's length is dynamic.
        """
        for block in self.transformer_blocks:
            block.compile()

    def forward(self, x: Tensor, text: Tensor, sigma: Tensor) -> Tensor:
        """Predicts the velocity noise - image.

        Args:
            x: Packed latents [B, 256, in_channels] at noise level sigma.
            text: States of the text encoder [B, T, joint_attention_dim], T <= TEXT_TOKENS.
            sigma: Noise levels [B] in 0..1.

        Returns:
            Velocities [B, 256, in_channels].
        """
        tokens = text.shape[1]
        cos = torch.cat([self.text_cos[:tokens], self.image_cos])
        sin = torch.cat([self.text_sin[:tokens], self.image_sin])
        time = self.time_text_embed.timestep_embedder(sigma)
        img, txt = self.img_in(x), self.txt_in(self.txt_norm(text))
        for table in (cos, sin):
            torch._dynamo.maybe_mark_dynamic(table, 0)
        for block in self.transformer_blocks:
            torch._dynamo.maybe_mark_dynamic(txt, 1)
            img, txt = block(img, txt, time, (cos, sin))
        scale, shift = self.norm_out.linear(F.silu(time))[:, None].chunk(2, dim=-1)
        return self.proj_out(_modulate(img, shift, scale))
