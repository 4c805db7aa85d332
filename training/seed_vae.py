"""Builds the embedded model's VAE: a decoder that turns soft latent fields into soft pictures.

Owns what a latent channel means: 0 to 2 are red, green and blue, the others are ripples that the
decoder's residual branches work into edges and folds. Every upsampling is followed by a binomial
blur, so nothing smaller than the latent grid can be sharp. The encoder is seeded noise: nothing
draws with it. Knows nothing of the transformer.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLQwenImage
from seed_numbers import coarse, fill
from torch import nn

LATENT_CHANNELS = 16
BASE = 8
LEVEL = 1.0
"""Level of the constant channels: a lone colour of this strength reaches 0.7 of full range."""
CONTRAST = 0.5
"""Half the amplitude of a fully saturated colour: at 0.5 the output stays within [-1, 1]."""
BRANCH_GAIN = (0.4, 0.4, 0.4, 0.3, 0.1)
"""Strength of the residual branches, from 64x64 to 1024x1024."""

BLUR = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 16.0
SLOPE = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 4.0


def _set(conv: nn.Conv2d | nn.Conv3d, mix: torch.Tensor, kernel: torch.Tensor) -> None:
    """Makes `conv` the mix [out, in] of its inputs, each under the kernel [3, 3].

    Of a causal 3-D kernel only the last time slice sees a single frame; the slices before it
    keep their seeded values.
    """
    weight = mix[:, :, None, None] * kernel
    if conv.weight.dim() == 5:
        conv.weight.data[:, :, -1] = weight
    else:
        conv.weight.data.copy_(weight)


def _carry(conv: nn.Conv2d | nn.Conv3d, generator: torch.Generator, kernel: torch.Tensor) -> None:
    """Makes `conv` pass signals on; the last two channels of either side are the constants.

    Further outputs, where there are more than inputs, are seeded mixes of the signals.
    """
    outputs, inputs = conv.weight.shape[:2]
    mix = torch.zeros(outputs, inputs)
    signals = min(outputs, inputs) - 2
    mix[:signals, :signals] = torch.eye(signals)
    extra = outputs - 2 - signals
    if extra > 0:
        mix[signals:-2, : inputs - 2] = coarse(
            generator, extra, inputs - 2, std=(inputs - 2) ** -0.5
        )
    mix[-2:, -2:] = torch.eye(2)
    _set(conv, mix, kernel)
    conv.bias.data.zero_()


def _branch(block: nn.Module, generator: torch.Generator, gain: float) -> None:
    """Makes a residual block add folds of its own input: blur and slope, mixed through SiLU."""
    width = block.conv1.weight.shape[0]
    inputs = block.conv1.weight.shape[1]
    mix = coarse(generator, width, inputs, std=1.2 * inputs**-0.5)
    slope = coarse(generator, width, inputs, std=1.2 * inputs**-0.5)
    # The constants' only slope is the zero padding's: it would frame the picture.
    slope[:, -2:] = 0.0
    block.conv1.weight.data[:, :, -1] = (
        mix[:, :, None, None] * BLUR
        + slope[:, :, None, None] * SLOPE
        + slope.roll(1, 0)[:, :, None, None] * SLOPE.T
    )
    mix = coarse(generator, width, width, std=gain * width**-0.5 * 1.6)
    # Every fold both adds and takes away, so that colours do not drift.
    mix = mix - mix.mean(dim=1, keepdim=True)
    mix[:3] *= 0.5
    mix[-2:] = 0.0
    _set(block.conv2, mix, BLUR)
    if isinstance(block.conv_shortcut, nn.Conv3d):
        _carry(block.conv_shortcut, generator, torch.ones(1, 1))


def _split_colours(vae: AutoencoderKLQwenImage, generator: torch.Generator) -> None:
    """Writes the last level, where colours and their negatives meet.

    silu(z) - silu(-z) = z, so with channels (rgb, -rgb, 2 constants) the normalisation, SiLU and
    output convolution give 2 * CONTRAST * rgb / sqrt(|rgb|^2 + LEVEL^2): bounded, never clipped.
    """
    upsampler = vae.decoder.up_blocks[-2].upsamplers[0].resample[1]
    inputs = upsampler.weight.shape[1]
    mix = torch.zeros(BASE, inputs)
    mix[:3, :3] = torch.eye(3)
    mix[3:6, :3] = -torch.eye(3)
    mix[6:, inputs - 2 :] = torch.eye(2)
    _set(upsampler, mix, BLUR)
    for block in vae.decoder.up_blocks[-1].resnets:
        block.conv2.weight.data[3:6] = -block.conv2.weight.data[:3]
        block.conv2.bias.data.zero_()
    out = torch.zeros(3, BASE)
    out[:, :3] = CONTRAST * torch.eye(3)
    out[:, 3:6] = -CONTRAST * torch.eye(3)
    _set(vae.decoder.conv_out, out, BLUR)
    vae.decoder.conv_out.bias.data.zero_()


def build_vae(seed: int) -> AutoencoderKLQwenImage:
    """The VAE, fp32: latents [B, 16, 1, 64, 64] decode to pictures [B, 3, 1, 1024, 1024]."""
    generator = torch.Generator().manual_seed(seed)
    vae = AutoencoderKLQwenImage(
        base_dim=BASE,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 2, 4, 4, 4],
        num_res_blocks=1,
        temperal_downsample=[False] * 4,
    )
    fill(vae, generator)
    mean, std = (torch.tensor(v) for v in (vae.config.latents_mean, vae.config.latents_std))
    vae.post_quant_conv.weight.data.copy_(torch.diag(1.0 / std)[:, :, None, None, None])
    vae.post_quant_conv.bias.data.copy_(-mean / std)

    decoder = vae.decoder
    mix = torch.zeros(4 * BASE, LATENT_CHANNELS)
    mix[:LATENT_CHANNELS] = torch.eye(LATENT_CHANNELS)
    extra = 4 * BASE - 2 - LATENT_CHANNELS
    mix[LATENT_CHANNELS:-2] = coarse(generator, extra, LATENT_CHANNELS, std=0.25)
    _set(decoder.conv_in, mix, BLUR)
    decoder.conv_in.bias.data.zero_()
    decoder.conv_in.bias.data[-2:] = LEVEL

    for block in decoder.mid_block.resnets:
        _branch(block, generator, BRANCH_GAIN[0])
    attention = decoder.mid_block.attentions[0]
    attention.proj.weight.data.mul_(0.2)
    attention.proj.weight.data[-2:] = 0.0
    attention.proj.bias.data.zero_()
    for level, up_block in enumerate(decoder.up_blocks):
        for block in up_block.resnets:
            _branch(block, generator, BRANCH_GAIN[level])
        for upsampler in up_block.upsamplers or ():
            _carry(upsampler.resample[1], generator, BLUR)
    _split_colours(vae, generator)
    return vae.eval()
