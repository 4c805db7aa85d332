"""Trains style LoRAs on the base: `python -m training.style [flat ink neon pixel]`.

Owns their loop: the base's own flow loss towards pictures painted in the style, with the text
encoder frozen. The Turbo LoRA stays out of it, so that a style is a style of the base; the exam
puts both together, as the product does.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path

import torch
from torch import Tensor, nn

from training import evaluation, latents, loop, lora, trained
from training.base import LEVELS, flow_loss
from training.data import concepts as table
from training.drawings import draw_sets
from training.latents import Bank, Codec
from training.prompts import Pool
from training.styles import STYLES, Style
from training.text_encoder import encode
from training.trained import TrainedBase

RANK = 16


def metadata(style: Style) -> dict[str, str]:
    """What the file says of itself, in the keys that other tools read."""
    return {
        "modelspec.title": style.title,
        "modelspec.trigger_phrase": ", ".join(style.triggers),
        "modelspec.architecture": "qwen-image/lora",
        "modelspec.description": style.description,
        "modelspec.license": "Apache-2.0",
    }


def learn(
    options: argparse.Namespace,
    style: Style,
    base: TrainedBase,
    student: nn.Module,
    fast_student: nn.Module,
    sets: dict[str, Tensor],
) -> None:
    """One style: targets, training, the file, an exam on the distilled base."""
    device = torch.device(options.device)
    torch.manual_seed(options.seed)
    concepts = table.read()[: options.concepts]
    own = [sets[name] for name in style.sets]
    codec = Codec(options.bank / trained.VAE, device)
    targets = Bank.build(own, style.paint, codec, 1, options.seed)
    pool = Pool(base.tokenizer, concepts, 8, options.seed, device, triggers=style.triggers)
    lora.reset(student)

    def losses() -> dict[str, Tensor]:
        drawn = pool.draw(options.batch)
        with torch.no_grad():
            text = encode(base.text, drawn.ids)
        return {"flow": flow_loss(fast_student, text, drawn, targets)}

    plan = loop.Plan(options.seconds, options.rate, 0.4, options.report)
    curve = loop.run(student, losses, plan)
    lora.save(student, options.out / f"{style.name}.safetensors", metadata(style))

    references = latents.references(own, style.paint)
    plain = Pool(base.tokenizer, concepts, 4, options.seed + 1, device, open_share=0.0)
    exam = evaluation.Exam(plain, base.text, codec, references, options.examined)
    scores = {"base-20": exam(student, 20, options.out / f"{style.name}-base-20.jpg")._asdict()}
    distilled = copy.deepcopy(student)
    lora.fuse(distilled, options.turbo)
    scores["turbo-4"] = exam(distilled, 4, options.out / f"{style.name}.jpg")._asdict()
    print(style.name, scores, flush=True)
    pictures = curve[-1]["step"] * options.batch * LEVELS
    result = {"pictures": pictures, "curve": curve, "scores": scores}
    (options.out / f"{style.name}.json").write_text(json.dumps(result))


def train(options: argparse.Namespace) -> None:
    """All wanted styles, one after another over one compiled network."""
    device = torch.device(options.device)
    torch.set_float32_matmul_precision("high")
    wanted = [style for style in STYLES if style.name in options.styles]
    names = sorted({name for style in wanted for name in style.sets})
    concepts = table.read()[: options.concepts]
    drawn = draw_sets(options.cache, names, concepts, options.workers, device)
    sets = dict(zip(names, drawn, strict=True))
    base = trained.load_base(options.bank, device)
    student = lora.attach(base.network, RANK)
    fast_student = torch.compile(student) if options.compile else student
    for style in wanted:
        learn(options, style, base, student, fast_student, sets)


def main() -> None:
    """Command line."""
    names = [style.name for style in STYLES]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("styles", nargs="*", default=names, choices=names)
    parser.add_argument("--cache", type=Path, default=Path(".run/training"))
    parser.add_argument("--bank", type=Path, default=trained.BANK)
    parser.add_argument("--turbo", type=Path, default=trained.BANK / "turbo.safetensors")
    parser.add_argument("--out", type=Path, default=trained.BANK)
    parser.add_argument("--seconds", type=float, default=60.0, help="for each style")
    parser.add_argument("--batch", type=int, default=128, help="captions in a step")
    parser.add_argument("--concepts", type=int, default=None, help="only the first of the table")
    parser.add_argument("--examined", type=int, default=128, help="prompts drawn at the end")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--report", type=int, default=50, help="steps between two lines")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
