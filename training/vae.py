"""Trains the embedded model's VAE on the emoji pictures, on one GPU: `python -m training.vae`.

Owns the VAE's shape, its loss and its training loop. A single frame meets only the last time slice
of a causal 3-D kernel, so training runs on 2-D convolutions; `to_stock` puts the slices back.

The shape: 32x smaller latents of 64 channels, so that the transformer sees 256 tokens.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import zipfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLQwenImage
from diffusers.models.autoencoders.autoencoder_kl_qwenimage import QwenImageCausalConv3d
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from training.data.captions import COLOURS
from training.data.render import render

SHAPE = {
    "base_dim": 16,
    "z_dim": 64,
    "dim_mult": [1, 2, 4, 8, 8, 8],
    "num_res_blocks": 2,
    "temperal_downsample": [False] * 5,
    "latents_mean": [0.0] * 64,
    "latents_std": [1.0] * 64,
}
SIZE = 1024
CROP = 256
HELD_OUT = 24
"""Pictures per set that training never sees."""


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


def to_stock(weights: dict[str, Tensor], folder: Path, mean: list[float], std: list[float]) -> None:
    """Saves frame weights as a stock checkpoint: zeros in the slices that a frame never meets."""
    vae = AutoencoderKLQwenImage(**(SHAPE | {"latents_mean": mean, "latents_std": std}))
    full = {}
    for name, tensor in vae.state_dict().items():
        trained = weights[name].to(tensor.dtype)
        full[name] = trained
        if tensor.dim() == 5:
            full[name] = torch.zeros_like(tensor)
            full[name][:, :, -1] = trained
    vae.load_state_dict(full)
    vae.to(torch.bfloat16).save_pretrained(folder)


def _draw(svg: str) -> np.ndarray:
    return render(svg, SIZE)


def load_pictures(cache: Path, workers: int, members: Sequence[str] = ()) -> Tensor:
    """[N, 4, 1024, 1024] uint8 RGBA, drawn from these members of svg.zip.

    Without `members` all of them, sets one after another.
    """
    with zipfile.ZipFile(cache / "svg.zip") as archive:
        svgs = [archive.read(name).decode() for name in members or sorted(archive.namelist())]
    pictures = torch.empty((len(svgs), 4, SIZE, SIZE), dtype=torch.uint8)
    with ProcessPoolExecutor(workers) as pool:
        for index, picture in enumerate(pool.map(_draw, svgs, chunksize=4)):
            pictures[index] = torch.from_numpy(picture).permute(2, 0, 1)
    return pictures


class Crops:
    """Random training crops [B, 3, 256, 256] in [-1, 1], composed on the GPU."""

    def __init__(self, pictures: Tensor) -> None:
        self._pictures = pictures
        colours = torch.tensor([c.rgb for c in COLOURS], device=pictures.device)
        self._colours = colours.float() / 255

    def __call__(self, count: int) -> Tensor:
        """Mostly native pixels, a third at half size; flips; named and random backgrounds."""
        device = self._pictures.device
        chosen = torch.randint(len(self._pictures), (count,)).tolist()
        crops = []
        for index in chosen:
            side = CROP * (2 if torch.rand(()) < 0.33 else 1)
            top, left = torch.randint(SIZE - side + 1, (2,)).tolist()
            crop = self._pictures[index, :, top : top + side, left : left + side].float() / 255
            if side != CROP:
                crop = F.avg_pool2d(crop, side // CROP)
            crops.append(crop)
        rgba = torch.stack(crops)
        named = self._colours[torch.randint(len(self._colours), (count,), device=device)]
        free = torch.rand(count, 3, device=device)
        ground = torch.where(torch.rand(count, 1, device=device) < 0.5, named, free)
        rgb = rgba[:, 3:] * rgba[:, :3] + (1 - rgba[:, 3:]) * ground[:, :, None, None]
        flip = torch.rand(count, 1, 1, 1, device=device) < 0.5
        return torch.where(flip, rgb.flip(-1), rgb) * 2 - 1


class Autoencoder(nn.Module):
    """Encoder, sampling and decoder of the stock VAE on single frames."""

    def __init__(self) -> None:
        super().__init__()
        self.vae = AutoencoderKLQwenImage(**SHAPE)
        to_frames(self.vae)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance, [B, 64, H/32, W/32] each."""
        moments = self.vae.quant_conv(self.vae.encoder(x[:, :, None]))[:, :, 0]
        mean, logvar = moments.float().chunk(2, dim=1)
        return mean, logvar.clamp(-20, 5)

    def decode(self, z: Tensor) -> Tensor:
        """[B, 3, H, W]."""
        return self.vae.decoder(self.vae.post_quant_conv(z[:, :, None]))[:, :, 0]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction, mean and log-variance."""
        mean, logvar = self.encode(x)
        z = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
        return self.decode(z.to(x.dtype)), mean, logvar


def loss_of(x: Tensor, out: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """L1, L1 of gradients (edges), L1 of 8x pooled colours, and a little KL."""
    x, out = x.float(), out.float()
    error = out - x
    edges = (error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()) / 2
    pooled = F.avg_pool2d(error, 8).abs().mean()
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    return error.abs().mean() + error.square().mean() + edges + pooled + 3e-5 * kl


@torch.no_grad()
def evaluate(model: Autoencoder, pictures: Tensor) -> tuple[float, Tensor, Tensor]:
    """Mean PSNR in dB over whole 1024 px pictures on a grey-blue ground; latent mean and std."""
    ground = torch.tensor([126, 200, 245], device=pictures.device).view(3, 1, 1) / 255
    values, latents = [], []
    for rgba in pictures:
        rgba = rgba.float() / 255
        x = ((rgba[3:] * rgba[:3] + (1 - rgba[3:]) * ground) * 2 - 1)[None]
        mean, _ = model.encode(x.bfloat16())
        out = model.decode(mean.bfloat16()).float().clamp(-1, 1)
        values.append(-10 * math.log10(float(((out - x) / 2).square().mean())))
        latents.append(mean[0].flatten(1))
    stacked = torch.cat(latents, dim=1)
    return sum(values) / len(values), stacked.mean(1), stacked.std(1)


def train(arguments: argparse.Namespace) -> None:
    """Trains for a fixed time, then saves weights, curve and figures."""
    torch.manual_seed(arguments.seed)
    device = torch.device(arguments.device)
    began = time.monotonic()
    pictures = load_pictures(arguments.cache, arguments.workers).to(device)
    per_set = len(pictures) // 4
    held = torch.zeros(len(pictures), dtype=torch.bool)
    for first in range(0, len(pictures), per_set):
        held[first : first + HELD_OUT] = True
    print(f"{len(pictures)} pictures drawn in {time.monotonic() - began:.0f} s", flush=True)
    crops, validation = Crops(pictures[~held]), pictures[held]

    model = Autoencoder().to(device)
    if arguments.resume:
        model.vae.load_state_dict(load_file(arguments.resume))
    optimizer = torch.optim.AdamW(model.parameters(), lr=arguments.rate, weight_decay=0.0)
    step_model = torch.compile(model) if arguments.compile else model
    curve: list[dict[str, float]] = []
    trained, step = time.monotonic(), 0
    while (spent := time.monotonic() - trained) < arguments.seconds:
        share = spent / arguments.seconds
        rate = arguments.rate * min(1.0, (step + 1) / 200) * 0.5 * (1 + math.cos(math.pi * share))
        for group in optimizer.param_groups:
            group["lr"] = rate
        x = crops(arguments.batch)
        with torch.autocast(device.type, torch.bfloat16):
            out, mean, logvar = step_model(x)
            loss = loss_of(x, out, mean, logvar)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 250 == 0:
            curve.append({"step": step, "seconds": spent, "loss": float(loss.detach())})
            print(curve[-1], flush=True)
    final = Autoencoder().to(device, torch.bfloat16)
    final.load_state_dict(model.state_dict())
    psnr, mean, std = evaluate(final, validation)
    weights = {
        k: v.detach().bfloat16().contiguous().cpu() for k, v in model.vae.state_dict().items()
    }
    save_file(weights, arguments.out / "vae_frames.safetensors")
    result = {
        "steps": step,
        "seconds": time.monotonic() - trained,
        "psnr_db": psnr,
        "parameters": sum(v.numel() for v in weights.values()),
        "mean": mean.tolist(),
        "std": std.tolist(),
        "curve": curve,
    }
    (arguments.out / "vae.json").write_text(json.dumps(result))
    print({k: v for k, v in result.items() if k not in ("mean", "std", "curve")}, flush=True)
    _save_sheet(final, validation, arguments.out / "vae.png")


@torch.no_grad()
def _save_sheet(model: Autoencoder, pictures: Tensor, path: Path) -> None:
    """Eight held-out pictures above their reconstructions."""
    from PIL import Image

    rows = []
    for index in torch.linspace(0, len(pictures) - 1, 8).long().tolist():
        rgba = pictures[index].float() / 255
        x = ((rgba[3:] * rgba[:3] + 1 - rgba[3:]) * 2 - 1)[None].bfloat16()
        out = model.decode(model.encode(x)[0].bfloat16())
        pair = torch.cat([x, out], dim=2).float().clamp(-1, 1)
        rows.append(F.avg_pool2d(pair, 2)[0])
    sheet = ((torch.cat(rows, dim=2) + 1) * 127.5).byte().permute(1, 2, 0).cpu().numpy()
    Image.fromarray(sheet).save(path)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path(".run/training"))
    parser.add_argument("--out", type=Path, default=Path(".run/training"))
    parser.add_argument("--seconds", type=float, default=420.0)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--resume", type=Path, help="weights of an earlier run")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
