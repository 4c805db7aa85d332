"""Builds the embedded model's transformer: weights that are written, not trained.

Owns the plan of the 256 residual dimensions of an image token:

    0..63     X  the noisy latent patch itself, never changed by a block
    64..111   N  the patch averaged over three neighbourhoods: what the noise (the seed) says
    112..191  P  paint: what the words say at this place
    192..255  A  constants that keep LayerNorm's divisor nearly the same for every token

Each block's heads either blur (attend to neighbouring patches through RoPE) or paint (attend to
words; where a word paints depends on RoPE, on the word and on N). The output is the velocity of
a flow whose clean latent x0 is a mix of P and N: v = (x - x0) / sigma, with 1 / sigma and every
gate read from the timestep embedding by least squares. Knows nothing of the VAE but the number
of its channels, and nothing of words but where an embedding holds colour and salience.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from diffusers import QwenImageTransformer2DModel
from seed_heads import BlurHead, PaintHead, write_head
from seed_numbers import coarse, fill
from seed_text_encoder import COLOUR, SALIENCE
from seed_text_encoder import HIDDEN as TEXT_WIDTH
from torch import nn

WIDTH, HEADS, BLOCKS = 256, 4, 4
CHANNELS = 16
X, N, P, A = slice(0, 64), slice(64, 112), slice(112, 192), slice(192, 256)
TEMB = 48
"""Timestep features in use; the others are zero, which makes the modulation matrices sparse."""
ECHO = 1.7
ANCHOR = 6.0
NORM = 3.2
"""Standard deviation of a token's 256 values, nearly constant thanks to A."""

PLAN: tuple[tuple[BlurHead | PaintHead, ...], ...] = (
    (BlurHead(0, 5.0), BlurHead(1, 2.6), BlurHead(2, 1.3), PaintHead(0, warp=0.0)),
    (PaintHead(0, warp=1.0), PaintHead(1, warp=1.4), PaintHead(2, warp=1.0), BlurHead(1, 2.0)),
    (PaintHead(0, 1.6, 1.5), PaintHead(3, 1.4, 1.5), PaintHead(4, 1.2, 1.5), BlurHead(2, 1.6)),
    (PaintHead(0, 2.2, 2.6), PaintHead(1, 2.2, 2.6), PaintHead(2, 2.0, 2.6), BlurHead(0, 1.6)),
)
"""What each head of each block does; numbers are the group of N or P that it writes."""

Schedule = Callable[[torch.Tensor], torch.Tensor]


class _Timestep:
    """Writes functions of sigma into linear layers that read silu(temb)."""

    def __init__(self, model: QwenImageTransformer2DModel, generator: torch.Generator) -> None:
        embedder = model.time_text_embed.timestep_embedder
        # Timesteps gives cosines (0..127) and sines (128..255) of 1000 sigma 10000^(-i/128);
        # only the slow ones, below 10 radians, are read: they are smooth in sigma.
        slow = torch.zeros(WIDTH)
        slow[64:128] = 1.0
        slow[192:256] = 1.0
        embedder.linear_1.weight.data.copy_(coarse(generator, WIDTH, WIDTH, std=0.35) * slow)
        embedder.linear_1.bias.data.copy_(coarse(generator, WIDTH, std=0.5))
        embedder.linear_2.weight.data.copy_(coarse(generator, WIDTH, WIDTH, std=0.12))
        embedder.linear_2.weight.data[TEMB:] = 0.0
        embedder.linear_2.bias.data.zero_()
        for parameter in embedder.parameters():
            parameter.data.copy_(parameter.data.bfloat16().float())
        self.sigma = torch.linspace(0.02, 1.0, 197)
        with torch.no_grad():
            temb = model.time_text_embed(self.sigma, torch.zeros(1))
        features = torch.nn.functional.silu(temb[:, :TEMB]).double()
        self._basis = torch.cat([features, torch.ones(len(features), 1).double()], dim=1)
        ridge = 1e-4 * torch.eye(TEMB + 1).double()
        self._solve = torch.linalg.solve(self._basis.T @ self._basis + ridge, self._basis.T)

    def write(self, linear: nn.Linear, rows: slice, function: Schedule) -> None:
        """Makes `rows` of `linear` give function(sigma), one value or one per row."""
        values = function(self.sigma[:, None]).double().expand(-1, rows.stop - rows.start)
        solution = (self._solve @ values).float()
        linear.weight.data[rows] = 0.0
        linear.weight.data[rows, :TEMB] = solution[:-1].T
        linear.bias.data[rows] = solution[-1]


def _memory(spread: float) -> Schedule:
    """Brings an average of x_t to about unit size at every sigma.

    x_t = (1 - sigma) x0 + sigma noise, and averaging leaves `spread` of the noise. x0 counts
    ECHO times, so that it fades from N as it forms: with less than 1.5 pictures drift to one hue.
    """
    return lambda sigma: 1.0 / torch.sqrt((ECHO * (1.0 - sigma)) ** 2 + (spread * sigma) ** 2)


def _modulate(
    timestep: _Timestep, block: nn.Module, index: int, generator: torch.Generator
) -> None:
    """Writes one block's shift, scale and gate tables: the picture's coarse-to-fine order."""
    image, text = block.img_mod[1], block.txt_mod[1]
    for linear in (image, text):
        for share in (0, 1, 3, 4):  # shift and scale of attention and of the MLP
            size, bend = (coarse(generator, WIDTH, std=s) for s in (0.04, 0.08))
            rows = slice(share * WIDTH, (share + 1) * WIDTH)
            timestep.write(linear, rows, lambda s, a=size, b=bend: a + b * s)
        for share in (2, 5):
            rows = slice(share * WIDTH, (share + 1) * WIDTH)
            timestep.write(linear, rows, lambda s: 0.9 + 0.2 * s)
    gates = 2 * WIDTH
    for head in PLAN[index]:
        if isinstance(head, BlurHead) and index == 0:
            rows = slice(gates + N.start + 16 * head.group, gates + N.start + 16 * head.group + 16)
            timestep.write(image, rows, _memory(head.spread))
    if index >= 2:
        # Later blocks speak up as the noise goes: one step leaves them nearly silent.
        paint = slice(gates + P.start, gates + P.stop)
        timestep.write(image, paint, lambda s: 0.25 + 1.6 * torch.sin(math.pi * s / 1.6) * (1 - s))


def _fold(block: nn.Module, generator: torch.Generator) -> None:
    """Writes the image MLP: folds of P and N, read through GELU and added to P."""
    up, down = block.img_mlp.net[0].proj, block.img_mlp.net[2]
    reads = slice(N.start, P.stop)
    count = reads.stop - reads.start
    up.weight.data.zero_()
    up.weight.data[:, reads] = coarse(
        generator, up.weight.shape[0], count, std=1.3 * NORM * count**-0.5
    )
    up.bias.data.copy_(coarse(generator, up.bias.shape[0], std=0.6))
    writes = P.stop - P.start
    down.weight.data.zero_()
    down.weight.data[P] = coarse(generator, writes, up.weight.shape[0], std=0.55 / 32.0)
    # The colours of each group of paint belong to the words: folds only tint them.
    for group in range(0, writes, 16):
        down.weight.data[P.start + group : P.start + group + 3] *= 0.35
    down.bias.data.zero_()


def _write_ends(model: QwenImageTransformer2DModel, generator: torch.Generator) -> None:
    """Writes the ways in: the patch to X, the constants to A, words to the text stream."""
    model.img_in.weight.data.zero_()
    model.img_in.weight.data[X] = torch.eye(64)
    model.img_in.bias.data.zero_()
    model.img_in.bias.data[A] = ANCHOR * torch.tensor([1.0, -1.0]).repeat(32)
    fill(model.txt_in, generator, gain=1.0, bias_std=0.0)
    # Colour and salience keep their places (0..2 and 3); blocks add to the others only.
    model.txt_in.weight.data[:8] = 0.0
    for place in (*range(COLOUR.start, COLOUR.stop), SALIENCE):
        model.txt_in.weight.data[place, place] = 1.0


def set_output(model: QwenImageTransformer2DModel, mix: torch.Tensor, offset: torch.Tensor) -> None:
    """Writes proj_out so that the velocity is (x - x0) / sigma, x0 = mix @ hidden + offset.

    Args:
        model: the transformer, changed in place.
        mix: [16, 256] from a token's residual values to its latent colour; nonzero on N and P.
        offset: [16], added to every patch.
    """
    alternating = torch.tensor([1.0, -1.0]).repeat(32)
    weight = torch.zeros(4 * CHANNELS, WIDTH)
    weight[:, X] = torch.eye(64)
    # A patch holds its 2x2 pixels innermost: channel c is rows 4c to 4c + 3.
    x0 = mix.clone()
    x0[:, A] = offset[:, None] * alternating / (64.0 * ANCHOR)
    weight -= x0.repeat_interleave(4, dim=0)
    # LayerNorm subtracts a token's mean; A sums to zero, so its mean is exactly that.
    weight[:, A] -= weight[:, : A.start].sum(dim=1, keepdim=True) / 64.0
    model.proj_out.weight.data.copy_(weight * NORM)
    model.proj_out.bias.data.zero_()


def build_transformer(seed: int) -> QwenImageTransformer2DModel:
    """The transformer, fp32, its output not yet calibrated (see `set_output`)."""
    generator = torch.Generator().manual_seed(seed)
    model = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=4 * CHANNELS,
        out_channels=CHANNELS,
        num_layers=BLOCKS,
        attention_head_dim=WIDTH // HEADS,
        num_attention_heads=HEADS,
        joint_attention_dim=TEXT_WIDTH,
        axes_dims_rope=(16, 24, 24),
    )
    fill(model, generator)
    _write_ends(model, generator)
    timestep = _Timestep(model, generator)
    for index, block in enumerate(model.transformer_blocks):
        attention = block.attn
        for update in (attention.to_add_out, block.txt_mlp.net[2]):
            update.weight.data.mul_(0.4)
            update.weight.data[:8] = 0.0
            update.bias.data[:8] = 0.0
        for place, head in enumerate(PLAN[index]):
            write_head(attention, place, head, index, generator)
        _fold(block, generator)
        _modulate(timestep, block, index, generator)
    inverse: Schedule = lambda s: 1.0 / s.clamp(min=0.2) - 1.0  # noqa: E731
    timestep.write(model.norm_out.linear, slice(0, WIDTH), inverse)
    timestep.write(model.norm_out.linear, slice(WIDTH, 2 * WIDTH), torch.zeros_like)
    return model.eval()
