"""Trains text encoder and transformer together from nothing: `python -m training.base`.

Owns the base's loss. Each caption is encoded once and drawn at several noise levels; half of those
are very high, because with 32,768 latents a picture shows through the noise far longer than its
text is needed (the subject was not learned at a shift of 3 alone).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Qwen2Tokenizer

from training import bank, evaluation, latents, loop, options, sampling, trained
from training.data import concepts as table
from training.data.captions import COLOURS
from training.drawings import draw_sets
from training.latents import Bank, Codec
from training.network import SHAPE, Network
from training.prompts import Drawn, Pool
from training.styles import BASE_SETS, paint_plain
from training.text_encoder import HIDDEN, build_text_encoder, encode

LEVELS = 8
"""Noise levels per encoded caption."""
SHIFTS = (3.0, 12.0)
"""Time shifts of the noise levels, in turn."""
NAMING_WEIGHT = 0.05
"""Of the two side losses that ask the text alone for concept and background."""


class Base(nn.Module):
    """What is trained: text encoder, transformer, and two heads that only training uses."""

    def __init__(self, tokenizer: Qwen2Tokenizer, concepts: int) -> None:
        super().__init__()
        self.text = build_text_encoder(tokenizer)
        self.text.model.visual.requires_grad_(False)
        self.network = Network(SHAPE)
        self.name_concept = nn.Linear(HIDDEN, concepts)
        self.name_colour = nn.Linear(HIDDEN, len(COLOURS) + 1)


def levels(captions: int, device: torch.device, shifts: Sequence[float] = SHIFTS) -> Tensor:
    """[captions * LEVELS] noise levels; for each shift they cover a caption's range evenly."""
    strata = LEVELS // len(shifts)
    low = torch.arange(strata, device=device)[:, None]
    u = (low + torch.rand(captions, strata, len(shifts), device=device)) / strata
    return sampling.shifted(u, torch.tensor(shifts, device=device)).flatten()


def flow_loss(
    network: nn.Module,
    text: Tensor,
    drawn: Drawn,
    targets: Bank,
    shifts: Sequence[float] = SHIFTS,
) -> Tensor:
    """Squared error of the velocity at LEVELS noise levels of each caption.

    `text` holds the captions' states [captions, tokens, HIDDEN].
    """
    wide = (text, drawn.concept, drawn.colour)
    text, concept, colour = (x.repeat_interleave(LEVELS, 0) for x in wide)
    x0 = targets(concept, colour)
    sigma = levels(len(drawn.concept), x0.device, shifts)
    noise = torch.randn_like(x0)
    level = sigma[:, None, None]
    v = network((1 - level) * x0 + level * noise, text, sigma)
    return (v.float() - (noise.float() - x0.float())).square().mean()


def naming_loss(model: Base, text: Tensor, drawn: Drawn) -> Tensor:
    """How badly the mean of a caption's states names concept and background."""
    mean = text.mean(1)
    naming = F.cross_entropy(model.name_concept(mean), drawn.concept, label_smoothing=0.05)
    return naming + 0.2 * F.cross_entropy(model.name_colour(mean), drawn.slot)


def train(chosen: argparse.Namespace) -> None:
    """Trains for a fixed time, then saves weights, curve and scores."""
    torch.manual_seed(chosen.seed)
    device = torch.device(chosen.device)
    torch.set_float32_matmul_precision("high")
    concepts = table.read()[: chosen.concepts]
    sets = draw_sets(chosen.cache, BASE_SETS, concepts, chosen.workers, device)
    codec = Codec(chosen.bank / trained.VAE, device)
    targets = Bank.build(sets, paint_plain, codec, chosen.variants, chosen.seed)
    references = latents.references(sets, paint_plain)
    del sets
    tokenizer = trained.load_tokenizer(chosen.bank)
    pool = Pool(tokenizer, concepts, chosen.captions, chosen.seed, device)

    model = Base(tokenizer, len(concepts))
    if chosen.resume:
        trained.fill_text_encoder(model.text, chosen.resume)
        model.network.load_state_dict(bank.load(chosen.resume, trained.TRANSFORMER))
    model.to(device)
    if chosen.compile:
        model.network.compile_blocks()

    def losses() -> dict[str, Tensor]:
        drawn = pool.draw(chosen.batch)
        text = encode(model.text, drawn.ids)
        naming = NAMING_WEIGHT * naming_loss(model, text, drawn)
        return {
            "flow": flow_loss(model.network, text, drawn, targets, chosen.shifts),
            "naming": naming,
        }

    plan = loop.Plan(chosen.seconds, chosen.rate, chosen.decay, chosen.report)
    curve = loop.run(model, losses, plan)
    trained.save_base(model.text, model.network, chosen.out)
    figures = {"shifts": chosen.shifts, "rate": chosen.rate, "resumed": bool(chosen.resume)}
    result = figures | {"pictures": curve[-1]["step"] * chosen.batch * LEVELS, "curve": curve}
    (chosen.out / "base.json").write_text(json.dumps(result))

    plain = Pool(tokenizer, concepts, 4, chosen.seed + 1, device, open_share=0.0)
    exam = evaluation.Exam(plain, model.text, codec, references, chosen.examined)
    scores = {}
    for steps in (4, 20):
        sheet = chosen.out / f"base-{steps}.jpg"
        scores[steps] = exam(model.network, steps, sheet)._asdict()
        print(f"{steps} steps: {scores[steps]}", flush=True)
    (chosen.out / "base.json").write_text(json.dumps(result | {"scores": scores}))


def main() -> None:
    """Command line."""
    parser = options.parser(__doc__)
    parser.add_argument("--seconds", type=float, default=420.0)
    parser.add_argument("--batch", type=int, default=128, help="captions in a step")
    parser.add_argument("--shifts", type=float, nargs="+", default=SHIFTS, help="of noise levels")
    parser.add_argument("--variants", type=int, default=3, help="places of a picture")
    parser.add_argument("--captions", type=int, default=12, help="of a concept and background")
    parser.add_argument("--examined", type=int, default=256, help="prompts drawn at the end")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--decay", type=float, default=0.3, help="last share of the time")
    parser.add_argument("--report", type=int, default=100, help="steps between two lines")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--resume", type=Path, help="folder with weights of an earlier run")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
