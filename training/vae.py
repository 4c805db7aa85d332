"""Trains the embedded model's VAE on the emoji pictures, on one GPU: `python -m training.vae`.

Owns the VAE's shape, its loss and its training loop. A single frame meets only the last time slice
of a causal 3-D kernel, so training runs on 2-D convolutions; `to_stock` puts the slices back.

The shape: 32x smaller latents of 32 channels, so that the transformer sees 256 tokens of 128.
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
    "z_dim": 32,
    "dim_mult": [1, 2, 4, 8, 8, 8],
    "num_res_blocks": 2,
    "temperal_downsample": [False] * 5,
    "latents_mean": [0.0] * 32,
    "latents_std": [1.0] * 32,
}
SIZE = 1024
CROP = 256
NOISE = 0.4
"""Largest standard deviation of the noise on the latents in training."""
EPS = 1e-6
"""Added to the latents' variance."""
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


def loss_of(x: Tensor, out: Tensor) -> Tensor:
    """L1, squares, L1 of gradients (edges) and L1 of 8x pooled colours."""
    error = out.float() - x.float()
    edges = (error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()) / 2
    pooled = F.avg_pool2d(error, 8).abs().mean()
    return error.abs().mean() + error.square().mean() + edges + pooled


@torch.no_grad()
def evaluate(model: Autoencoder, pictures: Tensor, noise: float) -> float:
    """Mean PSNR in dB over whole 1024 px pictures on light blue, with noise on the latents."""
    ground = torch.tensor([126, 200, 245], device=pictures.device).view(3, 1, 1) / 255
    values = []
    for rgba in pictures:
        rgba = rgba.float() / 255
        x = ((rgba[3:] * rgba[:3] + (1 - rgba[3:]) * ground) * 2 - 1)[None]
        level = torch.full((1,), noise, device=x.device)
        out = model(x.bfloat16(), level).float().clamp(-1, 1)
        values.append(-10 * math.log10(float(((out - x) / 2).square().mean())))
    return sum(values) / len(values)


def train(options: argparse.Namespace) -> None:
    """Trains for a fixed time, then saves weights, curve and figures."""
    torch.manual_seed(options.seed)
    device = torch.device(options.device)
    began = time.monotonic()
    pictures = load_pictures(options.cache, options.workers).to(device)
    per_set = len(pictures) // 4
    held = torch.zeros(len(pictures), dtype=torch.bool)
    for first in range(0, len(pictures), per_set):
        held[first : first + HELD_OUT] = True
    print(f"{len(pictures)} pictures drawn in {time.monotonic() - began:.0f} s", flush=True)
    crops, validation = Crops(pictures[~held]), pictures[held]

    model = Autoencoder().to(device)
    if options.resume:
        model.load_state_dict(load_file(options.resume), strict=False)
    if options.decoder_only:
        # The latents stay what they are, so everything that was trained on them stays valid.
        model.vae.encoder.requires_grad_(False)
        model.vae.quant_conv.requires_grad_(False)
        model.norm.eval()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=options.rate, weight_decay=0.0)
    step_model = torch.compile(model) if options.compile else model
    curve: list[dict[str, float]] = []
    began, step = time.monotonic(), 0
    while (spent := time.monotonic() - began) < options.seconds:
        share = spent / options.seconds
        rate = options.rate * min(1.0, (step + 1) / 200) * 0.5 * (1 + math.cos(math.pi * share))
        for group in optimizer.param_groups:
            group["lr"] = rate
        x = crops(options.batch)
        # A third without noise, for the sharpest picture; the rest grows up to NOISE.
        noise = NOISE * min(1.0, 3 * share) * torch.rand(options.batch, device=device)
        noise[::3] = 0
        with torch.autocast(device.type, torch.bfloat16):
            loss = loss_of(x, step_model(x, noise))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        step += 1
        if step % 250 == 0:
            curve.append({"step": step, "seconds": spent, "loss": float(loss.detach())})
            print(curve[-1], flush=True)
    weights = {k: v.detach().contiguous().cpu() for k, v in model.state_dict().items()}
    del weights["norm.num_batches_tracked"]
    # Statistics stay fp32: they are few, and std is divided by.
    kept = {k: v if k.startswith("norm.") else v.bfloat16() for k, v in weights.items()}
    save_file(kept, options.out / "vae_frames.safetensors")
    final = load(options.out / "vae_frames.safetensors", device)
    psnr = {noise: evaluate(final, validation, noise) for noise in (0.0, 0.1, 0.2, 0.4)}
    result = {"steps": step, "seconds": time.monotonic() - began, "psnr_db": psnr, "curve": curve}
    (options.out / "vae.json").write_text(json.dumps(result))
    print({k: v for k, v in result.items() if k != "curve"}, flush=True)
    _save_sheet(final, validation, options.out / "vae.jpg")


def load(path: Path, device: torch.device) -> Autoencoder:
    """The trained autoencoder for inference: bf16 on a GPU, fp32 elsewhere, norm in fp32."""
    model = Autoencoder()
    model.load_state_dict(load_file(path), strict=False)
    model.vae.to(torch.bfloat16 if device.type == "cuda" else torch.float32)
    return model.to(device).eval().requires_grad_(False)


@torch.no_grad()
def _save_sheet(model: Autoencoder, pictures: Tensor, path: Path) -> None:
    """Eight held-out pictures above their reconstructions."""
    from PIL import Image

    rows = []
    for index in torch.linspace(0, len(pictures) - 1, 8).long().tolist():
        rgba = pictures[index].float() / 255
        x = ((rgba[3:] * rgba[:3] + 1 - rgba[3:]) * 2 - 1)[None].bfloat16()
        out = model(x, torch.zeros(1, device=x.device))
        pair = torch.cat([x, out], dim=2).float().clamp(-1, 1)
        rows.append(F.avg_pool2d(pair, 2)[0])
    sheet = ((torch.cat(rows, dim=2) + 1) * 127.5).byte().permute(1, 2, 0).cpu().numpy()
    Image.fromarray(sheet).save(path, quality=90)


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
    parser.add_argument("--decoder-only", action="store_true", help="keep the latents as they are")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
