"""Trains the embedded model's VAE on composed images: `python -m training.vae`.

First the fast encoder and the decoder together, then, with `--stock-seconds`, the stock encoder to
agree with the fast one. On several GPUs: `torchrun --nproc-per-node N -m training.vae`.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from training import composition
from training.autoencoder import Autoencoder, fill, load
from training.composition import SIZE
from training.data import concepts as table
from training.data.concepts import Concept
from training.data.prose.paints import PAINTS
from training.data.scenes import LAYOUTS, PLACES
from training.grounds import HELD_OUT, VARIANTS
from training.renderings import Rendered, render
from training.styles import STYLES
from training.team import Team

CROP = 512
"""Edge of a training crop in pixels: large enough that the middle's attention sees many latents."""
NOISE = 0.4
"""Largest standard deviation of the noise on the latents in training."""
STYLED_SHARE = 0.3
"""Share of batches that are in a style."""
PAINTED_SHARE = 0.2
JUDGED = 32
"""Images for validation, of scene variants that training does not see."""

Composed = Callable[..., Tensor]


def random_shown(rendered: Rendered, count: int) -> composition.Shown:
    """Returns images of random subjects in random grounds and layouts."""
    device = rendered.contacts.device

    def any_of(most: int, *shape: int) -> Tensor:
        return torch.randint(most, (count, *shape), device=device)

    paints = any_of(len(PAINTS), 2)
    own = torch.rand(count, 2, device=device) > PAINTED_SHARE
    return rendered.show(
        any_of(len(rendered.images.backs)),
        any_of(len(LAYOUTS)),
        any_of(PLACES),
        any_of(len(rendered.contacts), 2),
        composition.palette(device)[torch.where(own, -1, paints)],
    )


class Crops:
    """Samples training crops, composed on the device.

    Args:
        looks: What is rendered for each icon set.
        compose: `composition.compose`, compiled or not.
    """

    def __init__(self, looks: dict[str, Rendered], compose: Composed) -> None:
        self._looks, self._compose = looks, compose

    def __call__(self, count: int, edge: int = CROP) -> Tensor:
        """Returns crops [count, 3, edge, edge] in -1..1, a part of the batches in a style."""
        drawn = int(torch.randint(len(STYLES), ()))
        styled = bool(torch.rand(()) < STYLED_SHARE)
        look = self._looks[STYLES[drawn].look.set if styled else "fluent"]
        shown = random_shown(look, count)
        device = shown.ground.device
        # On the grid of cells, as squares of pixel art are.
        top, left = (
            torch.randint((SIZE - edge) // 64 + 1, (2, count), device=device) * 64
        ).unbind()
        rgb = self._compose(look.images, shown, top, left, edge)
        return (STYLES[drawn].look.paint(rgb) if styled else rgb) * 2 - 1


def loss_of(x: Tensor, out: Tensor) -> Tensor:
    """Returns the sum of L1, L2, L1 of gradients (edges), and L1 of 8x pooled colours."""
    error = out.float() - x.float()
    edges = (error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()) / 2
    pooled = F.avg_pool2d(error, 8).abs().mean()
    return error.abs().mean() + error.square().mean() + edges + pooled


def psnr(x: Tensor, out: Tensor) -> float:
    """Returns the mean PSNR in dB of images in -1..1."""
    error = ((out.float().clamp(-1, 1) - x.float()) / 2).square().flatten(1).mean(1)
    return float((-10 * error.log10()).mean())


@torch.no_grad()
def judge(model: Autoencoder, images: Tensor, noise: float, stock: bool = False) -> float:
    """Returns the PSNR over images [N, 3, 1024, 1024] in -1..1, with noise on the latents."""
    values = []
    for x in images.split(4):
        x = x.to(model.dtype)
        z = model.encode_stock(x) if stock else model.encode(x)
        out = model.decode((z + noise * torch.randn_like(z)).to(model.dtype))
        values.append(psnr(x, out))
    return sum(values) / len(values)


def trained(
    groups: Sequence[list[nn.Parameter]],
    loss: Callable[[float], Tensor],
    seconds: float,
    rate: float,
    team: Team,
    until: float = math.inf,
    held: float = 0.0,
) -> list[dict[str, float]]:
    """Trains with a cosine rate; returns the curve.

    Args:
        groups: One or two groups of parameters.
        loss: Takes the share of the time that is over.
        seconds: Duration.
        rate: Largest learning rate.
        team: The processes that train together.
        until: Latest end, in seconds since the epoch.
        held: Share of the time for which the second group keeps its values.
    """
    parameters = [parameter for group in groups for parameter in group]
    optimizer = torch.optim.AdamW(
        [{"params": group} for group in groups], lr=rate, betas=(0.9, 0.99), weight_decay=0.0
    )
    device = parameters[0].device
    curve: list[dict[str, float]] = []

    def backward(share: float) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            value = loss(share)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        return value.detach()

    # Compiling takes a minute; the clock starts when all processes have done it.
    backward(0.0)
    team.average([p.grad for p in parameters if p.grad is not None])
    began, step, share = time.monotonic(), 0, 0.0
    seconds = min(seconds, until - time.time())
    while share < 1:
        factor = min(1, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * share))
        for number, group in enumerate(optimizer.param_groups):
            group["lr"] = rate * factor * (number == 0 or share >= held)
        value = backward(share)
        gradients = [p.grad for p in parameters if p.grad is not None]
        share = team.average(gradients, (time.monotonic() - began) / seconds)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        if step % 200 == 0 and team.leads:
            curve.append({"step": step, "seconds": share * seconds, "loss": float(value)})
            print(curve[-1], flush=True)
    optimizer.zero_grad(set_to_none=True)
    return curve


def train(options: argparse.Namespace) -> None:
    """Trains, then saves weights, curve, PSNR, and a sheet."""
    team = Team()
    torch.manual_seed(options.seed)
    torch.backends.cudnn.benchmark = True
    device = torch.device(options.device)
    concepts = table.read()[: options.concepts]
    began = time.monotonic()

    def rendered(name: str, shown: Sequence[Concept], variants: range) -> Rendered:
        return render(options.cache, name, shown, variants=variants, device=device, keep=True)

    looks = {
        name: rendered(name, concepts, range(VARIANTS))
        for name in {style.look.set for style in STYLES} | {"fluent"}
    }
    held = rendered("fluent", concepts[::9], HELD_OUT)
    if team.leads:
        print(f"rendered in {time.monotonic() - began:.0f} s", flush=True)
    compose = torch.compile(composition.compose) if options.compile else composition.compose
    crops = Crops(looks, compose)

    model = Autoencoder().to(device)
    if options.resume:
        fill(model, options.resume)
    team.seed(options.seed)
    model.to(memory_format=torch.channels_last)
    step_model = torch.compile(model) if options.compile else model

    def reconstruct(share: float) -> Tensor:
        x = crops(options.batch)
        # A third stays without noise, for the sharpest image; elsewhere it goes up to NOISE, which
        # new weights reach slowly.
        most = NOISE if options.resume else NOISE * min(1.0, 3 * share)
        noise = most * torch.rand(options.batch, device=device)
        noise[::3] = 0
        return loss_of(x, step_model(x, noise))

    def agree(share: float) -> Tensor:
        x = crops(options.stock_batch)
        with torch.no_grad():
            goal = model.encode(x)
        return (stock(x) - goal).square().mean()

    decoder = [*model.vae.post_quant_conv.parameters(), *model.vae.decoder.parameters()]
    pairs = [list(model.fast.parameters()), decoder]
    facts: dict[str, object] = {}
    if options.seconds:
        facts["curve"] = trained(
            pairs, reconstruct, options.seconds, options.rate, team, options.until, options.held
        )
    model.norm.eval()
    team.average(list(model.norm.buffers())[:2])
    if options.stock_seconds:
        stock = torch.compile(model.encode_stock) if options.compile else model.encode_stock
        own = [*model.vae.encoder.parameters(), *model.vae.quant_conv.parameters()]
        facts["stock"] = trained([own], agree, options.stock_seconds, options.rate, team)
    if team.leads:
        save(model, options.out)
        report(load(options.out / "vae_frames.safetensors", device), held, options.out, facts)


def save(model: Autoencoder, folder: Path) -> None:
    """Saves the weights in bf16; statistics stay fp32, as the latents are divided by them."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.detach().contiguous().cpu() for k, v in model.state_dict().items()}
    del weights["norm.num_batches_tracked"]
    kept = {k: v if k.startswith("norm.") else v.bfloat16() for k, v in weights.items()}
    save_file(kept, folder / "vae_frames.safetensors")


@torch.no_grad()
def report(model: Autoencoder, held: Rendered, out: Path, facts: dict[str, object]) -> None:
    """Judges held-out images and saves the result and a sheet of reconstructions."""
    from PIL import Image

    torch.manual_seed(7)
    none = torch.zeros(JUDGED, dtype=torch.long, device=held.contacts.device)
    x = composition.compose(held.images, random_shown(held, JUDGED), none, none) * 2 - 1
    facts["psnr_db"] = {f"noise {noise}": judge(model, x, noise) for noise in (0.0, 0.1, 0.2, 0.4)}
    facts["stock_psnr_db"] = judge(model, x, 0.0, stock=True)
    (out / "vae.json").write_text(json.dumps(facts))
    print({k: v for k, v in facts.items() if "psnr" in k}, flush=True)
    rows = [x[:6], *(style.look.paint((x[6:9] + 1) / 2) * 2 - 1 for style in STYLES[:2])]
    shown = torch.cat(rows)
    pairs = [
        shown,
        torch.cat(
            [model.decode(model.encode(y).to(model.dtype)) for y in shown.to(model.dtype).split(4)]
        ),
    ]
    sheet = torch.cat([torch.cat(list(part.float().clamp(-1, 1)), 2) for part in pairs], 1)
    sheet = F.avg_pool2d(sheet[None], 2)[0]
    Image.fromarray(((sheet + 1) * 127.5).byte().permute(1, 2, 0).cpu().numpy()).save(
        out / "vae.jpg", quality=90
    )


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--cache", type=Path, default=Path(".run/training"))
    add("--out", type=Path, default=Path(".run/training/made"))
    add("--seconds", type=float, default=300.0, help="fast encoder and decoder; 0 to skip")
    add("--until", type=float, default=math.inf, help="latest end of it, seconds since the epoch")
    add("--held", type=float, default=0.0, help="first share of it that leaves the decoder alone")
    add("--stock-seconds", type=float, default=0.0, help="stock encoder; 0 to skip")
    add("--batch", type=int, default=24, help="crops in a step, on each GPU")
    add("--stock-batch", type=int, default=24)
    add("--concepts", type=int, default=None, help="use only the first N")
    add("--rate", type=float, default=1e-3)
    add("--seed", type=int, default=1)
    add("--device", default="cuda")
    add("--resume", type=Path, help="weights to start from")
    add("--compile", action=argparse.BooleanOptionalAction, default=True)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
