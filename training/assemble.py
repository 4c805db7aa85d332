"""Installs the trained weights in the product: `python -m training.assemble`.

Writes the checkpoint in the diffusers layout that `QwenImagePipeline.from_pretrained` reads, with
its scheduler and the factors of step previews. Fitting those factors needs svg.zip, which
`training.data` makes.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from training import style_adapters, trained, turbo
from training.autoencoder import Autoencoder, load, to_stock
from training.composition import compose
from training.data import concepts as table
from training.network import SHAPE
from training.renderings import render
from training.styles import PLAIN, STYLES
from training.vae import random_shown

Preview = dict[str, list[float] | list[list[float]]]
"""`factors` [32][3] and `bias` [3]: rgb in -1..1 = normalised latent @ factors + bias."""

PREVIEW_IMAGES = 48
"""Images that the preview factors are fitted to."""


def build_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Returns the four-step schedule: sigmas [1, 0.9, 0.75, 0.5, 0], shift 3 at any size."""
    return FlowMatchEulerDiscreteScheduler(
        num_train_timesteps=1000,
        use_dynamic_shifting=True,
        time_shift_type="exponential",
        base_shift=math.log(3),
        max_shift=math.log(3),
        base_image_seq_len=256,
        max_image_seq_len=8192,
        shift_terminal=None,
    )


def fit_preview(latents: Tensor, images: Tensor) -> Preview:
    """Fits, by least squares, a latent pixel to the mean colour of the 32 x 32 pixels it covers.

    Args:
        latents: Normalised, [N, 32, 32, 32], channels second.
        images: [N, 3, 1024, 1024] in 0..1.
    """
    x = latents.double().movedim(1, -1).flatten(0, 2)
    pooled = F.avg_pool2d(images.double() * 2 - 1, images.shape[-1] // latents.shape[-1])
    y = pooled.movedim(1, -1).flatten(0, 2)
    solution = torch.linalg.lstsq(F.pad(x, (0, 1), value=1.0), y).solution
    factors = [[round(value, 5) for value in row] for row in solution.tolist()]
    return {"factors": factors[:-1], "bias": factors[-1]}


def preview_of(autoencoder: Autoencoder, cache: Path, workers: int) -> Preview:
    """Returns the preview factors of the VAE, fitted to training images."""
    concepts = table.read()[::20]
    cpu = torch.device("cpu")
    rendered = render(cache, PLAIN.set, concepts, variants=range(1), device=cpu, workers=workers)
    torch.manual_seed(0)
    latents, images = [], []
    corner = torch.zeros(1, dtype=torch.long)
    for _ in range(PREVIEW_IMAGES):
        image = compose(rendered.images, random_shown(rendered, 1), corner, corner)
        with torch.no_grad():
            latents.append(autoencoder.encode(image * 2 - 1))
        images.append(image)
    return fit_preview(torch.cat(latents), torch.cat(images))


def assemble(base: Path, vae_frames: Path, out: Path, preview: Preview) -> None:
    """Replaces the checkpoint in `out`, in bf16; `base` may be the same folder."""
    tokenizer, text, network = trained.load(base, torch.device("cpu"))
    transformer = QwenImageTransformer2DModel(**SHAPE)
    transformer.load_state_dict(network.state_dict())
    if out.exists():
        shutil.rmtree(out)
    to_stock(load_file(vae_frames), out / "vae")
    vae = AutoencoderKLQwenImage.from_pretrained(out / "vae", torch_dtype=torch.bfloat16)
    vae.register_to_config(_name_or_path="")  # else the config contains a path of this machine
    pipeline = QwenImagePipeline(
        scheduler=build_scheduler(),
        vae=vae,
        text_encoder=text.to(torch.bfloat16),
        tokenizer=tokenizer,
        transformer=torch.nn.Module.to(transformer, torch.bfloat16),
    )
    pipeline.save_pretrained(out)
    (out / "vae" / "preview.json").write_text(json.dumps(preview) + "\n", encoding="utf-8")
    for path in out.rglob("*"):
        if path.is_file():
            path.chmod(0o644)  # saved as 0600, which a server of another user could not read


def install(made: Path) -> list[Path]:
    """Copies the Turbo LoRA, style adapters, curves, and sheets from a run's folder into place."""
    places = {turbo.FILE: trained.CHECKPOINT.parent}
    places |= {style_adapters.FILE.format(s.name): Path("loras") for s in STYLES}
    copied = []
    for source in sorted(made.iterdir()):
        place = places.get(source.name, trained.BANK)
        if source.is_file():
            place.mkdir(parents=True, exist_ok=True)
            copied.append(Path(shutil.copyfile(source, place / source.name)))
    return copied


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path(".run/training"))
    parser.add_argument(
        "--made", type=Path, default=Path(".run/training/made"), help="output of the runs"
    )
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    autoencoder = load(trained.VAE, torch.device("cpu"))
    preview = preview_of(autoencoder, options.cache, options.workers)
    assemble(options.made / "base", trained.VAE, trained.CHECKPOINT, preview)
    for path in (*install(options.made), *trained.CHECKPOINT.rglob("*.safetensors")):
        print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
