"""Trains the embedded model's VAE on the emoji renderings, on one GPU: `python -m training.vae`."""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from training.autoencoder import Autoencoder, fill, load
from training.data import concepts as table
from training.data.concepts import SET_NAMES
from training.latents import colours, premultiply
from training.renderings import SIZE, render_sets
from training.styles import STYLES, Style, paint_plain

CROP = 512
"""Edge of a training crop in pixels: large enough that the middle's attention sees many latents."""
SET_SHARES = {"fluent": 4.0, "noto": 0.5}
"""Sampling weights of sets, others 1: the base's look uses "fluent", no look uses "noto"."""
HALF_SHARE = 0.1
"""Share of crops at half size, for thin lines and small shapes."""
NOISE = 0.4
"""Largest standard deviation of the noise on the latents in training."""
HELD_OUT = 24
"""Renderings per set held out for validation."""


def painted(sets: dict[str, Tensor], style: Style) -> Tensor:
    """Returns every concept in a style on a random named background.

    Args:
        sets: uint8 RGBA [concepts, 4, E, E] by name.
        style: The style.

    Returns:
        Opaque RGBA [concepts, 4, E, E] uint8.
    """
    own = [sets[name] for name in style.look.sets]
    made = []
    for start in range(0, len(own[0]), 16):
        renderings = [premultiply(images[start : start + 16]) for images in own]
        grounds = colours(own[0].device)
        ground = grounds[torch.randint(len(grounds), (len(renderings[0]),), device=grounds.device)]
        rgb = F.pad(style.look.paint(renderings, ground), (0, 0, 0, 0, 0, 1), value=1.0)
        made.append((rgb.clamp(0, 1) * 255).round().byte())
    return torch.cat(made)


class Crops:
    """Samples training crops, composed on the sets' device.

    Args:
        sets: uint8 RGBA [N, 4, 1024, 1024] by name.
    """

    def __init__(self, sets: dict[str, Tensor]) -> None:
        self._sets = list(sets.values())
        shares = torch.tensor([SET_SHARES.get(name, 1.0) for name in sets])
        self._shares = shares / shares.sum()
        self._colours = colours(self._sets[0].device)

    def __call__(self, count: int) -> Tensor:
        """Returns crops [count, 3, CROP, CROP] in -1..1.

        Most are at native resolution. Half are flipped, half have a named background.
        """
        crops = []
        for chosen in torch.multinomial(self._shares, count, replacement=True).tolist():
            images = self._sets[chosen]
            side = CROP * (2 if torch.rand(()) < HALF_SHARE else 1)
            top, left = torch.randint(SIZE - side + 1, (2,)).tolist()
            index = int(torch.randint(len(images), ()))
            crop = premultiply(images[index, None, :, top : top + side, left : left + side])
            crops.append(F.avg_pool2d(crop, side // CROP) if side != CROP else crop)
        cut = torch.cat(crops)
        device = cut.device
        named = self._colours[torch.randint(len(self._colours), (count,), device=device)]
        free = torch.rand(count, 3, device=device)
        ground = torch.where(torch.rand(count, 1, device=device) < 0.5, named, free)
        rgb = paint_plain([cut], ground)
        flip = torch.rand(count, 1, 1, 1, device=device) < 0.5
        return torch.where(flip, rgb.flip(-1), rgb) * 2 - 1


def loss_of(x: Tensor, out: Tensor) -> Tensor:
    """Returns the sum of L1, L2, L1 of gradients (edges), and L1 of 8x pooled colours."""
    error = out.float() - x.float()
    edges = (error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()) / 2
    pooled = F.avg_pool2d(error, 8).abs().mean()
    return error.abs().mean() + error.square().mean() + edges + pooled


@torch.no_grad()
def evaluate(model: Autoencoder, images: Tensor, noise: float) -> float:
    """Returns the mean PSNR in dB over 1024 px images on light blue, with noise on the latents."""
    ground = torch.tensor([126, 200, 245], device=images.device).view(3, 1, 1) / 255
    values = []
    for rgba in images:
        rgba = rgba.float() / 255
        x = ((rgba[3:] * rgba[:3] + (1 - rgba[3:]) * ground) * 2 - 1)[None]
        level = torch.full((1,), noise, device=x.device)
        out = model(x.to(model.dtype), level).float().clamp(-1, 1)
        values.append(-10 * math.log10(float(((out - x) / 2).square().mean())))
    return sum(values) / len(values)


def train(options: argparse.Namespace) -> None:
    """Trains for a fixed time, then saves weights, curve, PSNR, and a sheet."""
    torch.manual_seed(options.seed)
    device = torch.device(options.device)
    began = time.monotonic()
    concepts = sorted(table.read(), key=lambda c: c.code)[: options.concepts]
    rendered = render_sets(
        options.cache, SET_NAMES, concepts, workers=options.workers, device=device
    )
    print(f"{len(SET_NAMES)} sets rendered in {time.monotonic() - began:.0f} s", flush=True)
    validation = {n: x[:HELD_OUT].clone() for n, x in zip(SET_NAMES, rendered, strict=True)}
    sets = {name: x[HELD_OUT:] for name, x in zip(SET_NAMES, rendered, strict=True)}
    del rendered
    # Styles that do more than compose a set over a background add textures of their own.
    fancy = [style for style in STYLES if style.look.paint is not paint_plain]
    crops = Crops(sets | {style.name: painted(sets, style) for style in fancy})
    del sets

    model = Autoencoder().to(device)
    if options.resume:
        fill(model, options.resume)
    if options.decoder_only:
        # The latents stay the same, so models trained on them stay valid.
        model.vae.encoder.requires_grad_(False)
        model.vae.quant_conv.requires_grad_(False)
        model.norm.eval()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=options.rate, weight_decay=0.0)
    step_model = torch.compile(model) if options.compile else model
    # Compiling takes minutes; the clock starts after it.
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        step_model(crops(options.batch), torch.zeros(options.batch, device=device)).sum().backward()
    optimizer.zero_grad(set_to_none=True)
    options.out.mkdir(parents=True, exist_ok=True)
    curve: list[dict[str, float]] = []
    began, step = time.monotonic(), 0
    while (spent := time.monotonic() - began) < options.seconds:
        share = spent / options.seconds
        rate = options.rate * min(1.0, (step + 1) / 200) * 0.5 * (1 + math.cos(math.pi * share))
        for group in optimizer.param_groups:
            group["lr"] = rate
        x = crops(options.batch)
        # A third stays without noise, for the sharpest image; elsewhere it grows up to NOISE.
        noise = NOISE * min(1.0, 3 * share) * torch.rand(options.batch, device=device)
        noise[::3] = 0
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = loss_of(x, step_model(x, noise))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        step += 1
        if step % 250 == 0:
            curve.append({"step": step, "seconds": spent, "loss": float(loss.detach())})
            print(curve[-1], flush=True)
    seconds = time.monotonic() - began
    weights = {k: v.detach().contiguous().cpu() for k, v in model.state_dict().items()}
    del weights["norm.num_batches_tracked"]
    # Statistics stay fp32: they are few, and the latents are divided by std.
    kept = {k: v if k.startswith("norm.") else v.bfloat16() for k, v in weights.items()}
    save_file(kept, options.out / "vae_frames.safetensors")
    final = load(options.out / "vae_frames.safetensors", device)
    psnr = {name: evaluate(final, images, 0.0) for name, images in validation.items()}
    for noise in (0.1, 0.2, 0.4):
        psnr[f"fluent, noise {noise}"] = evaluate(final, validation["fluent"], noise)
    result = {"steps": step, "seconds": seconds, "psnr_db": psnr, "curve": curve}
    (options.out / "vae.json").write_text(json.dumps(result))
    print({k: v for k, v in result.items() if k != "curve"}, flush=True)
    _save_sheet(final, torch.cat(list(validation.values())), options.out / "vae.jpg")


@torch.no_grad()
def _save_sheet(model: Autoencoder, images: Tensor, path: Path) -> None:
    """Saves eight held-out images above their reconstructions."""
    from PIL import Image

    rows = []
    for index in torch.linspace(0, len(images) - 1, 8).long().tolist():
        rgba = images[index].float() / 255
        x = ((rgba[3:] * rgba[:3] + 1 - rgba[3:]) * 2 - 1)[None].to(model.dtype)
        out = model(x, torch.zeros(1, device=x.device))
        pair = torch.cat([x, out], dim=2).float().clamp(-1, 1)
        rows.append(F.avg_pool2d(pair, 2)[0])
    sheet = ((torch.cat(rows, dim=2) + 1) * 127.5).byte().permute(1, 2, 0).cpu().numpy()
    Image.fromarray(sheet).save(path, quality=90)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path(".run/training"))
    parser.add_argument("--out", type=Path, default=Path(".run/training"))
    parser.add_argument("--seconds", type=float, default=420.0)
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--concepts", type=int, default=None, help="use only the first N by code")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--resume", type=Path, help="weights to start from")
    parser.add_argument("--decoder-only", action="store_true", help="keep the latents as they are")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
