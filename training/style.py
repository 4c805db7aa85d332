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

from training import evaluation, latents, loop, lora, options, trained
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
        "modelspec.description": style.description,
    }


def learn(
    chosen: argparse.Namespace,
    style: Style,
    base: TrainedBase,
    student: nn.Module,
    sets: dict[str, Tensor],
) -> None:
    """One style: targets, training, the file, an exam on the distilled base."""
    device = torch.device(chosen.device)
    torch.manual_seed(chosen.seed)
    concepts = table.read()[: chosen.concepts]
    own = [sets[name] for name in style.sets]
    codec = Codec(chosen.bank / trained.VAE, device)
    targets = Bank.build(own, style.paint, codec, 1, chosen.seed)
    pool = Pool(base.tokenizer, concepts, 8, chosen.seed, device, triggers=style.triggers)
    lora.reset(student)

    def losses() -> dict[str, Tensor]:
        drawn = pool.draw(chosen.batch)
        with torch.no_grad():
            text = encode(base.text, drawn.ids)
        return {"flow": flow_loss(student, text, drawn, targets)}

    plan = loop.Plan(chosen.seconds, chosen.rate, 0.4, chosen.report)
    curve = loop.run(student, losses, plan)
    lora.save(student, chosen.out / f"{style.name}.safetensors", metadata(style))

    references = latents.references(own, style.paint)
    plain = Pool(base.tokenizer, concepts, 4, chosen.seed + 1, device, open_share=0.0)
    exam = evaluation.Exam(plain, base.text, codec, references, chosen.examined)
    scores = {"base-20": exam(student, 20, chosen.out / f"{style.name}-base-20.jpg")._asdict()}
    distilled = copy.deepcopy(student)
    lora.fuse(distilled, chosen.turbo)
    scores["turbo-4"] = exam(distilled, 4, chosen.out / f"{style.name}.jpg")._asdict()
    print(style.name, scores, flush=True)
    pictures = curve[-1]["step"] * chosen.batch * LEVELS
    result = {"pictures": pictures, "curve": curve, "scores": scores}
    (chosen.out / f"{style.name}.json").write_text(json.dumps(result))


def train(chosen: argparse.Namespace) -> None:
    """All wanted styles, one after another over one compiled network."""
    device = torch.device(chosen.device)
    torch.set_float32_matmul_precision("high")
    wanted = [style for style in STYLES if style.name in chosen.styles]
    names = sorted({name for style in wanted for name in style.sets})
    concepts = table.read()[: chosen.concepts]
    drawn = draw_sets(chosen.cache, names, concepts, chosen.workers, device)
    sets = dict(zip(names, drawn, strict=True))
    base = trained.load_base(chosen.bank, device)
    student = lora.attach(base.network, RANK)
    if chosen.compile:
        student.compile_blocks()
    for style in wanted:
        learn(chosen, style, base, student, sets)


def main() -> None:
    """Command line."""
    names = [style.name for style in STYLES]
    parser = options.parser(__doc__)
    parser.add_argument("styles", nargs="*", default=names, choices=names)
    parser.add_argument("--turbo", type=Path, default=trained.BANK / "turbo.safetensors")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each style")
    parser.add_argument("--batch", type=int, default=128, help="captions in a step")
    parser.add_argument("--examined", type=int, default=128, help="prompts drawn at the end")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--report", type=int, default=50, help="steps between two lines")
    parser.add_argument("--seed", type=int, default=3)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
