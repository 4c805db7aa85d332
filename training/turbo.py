"""Distils twenty steps of the base into four: `python -m training.turbo`.

Owns the Turbo LoRA's loss. The teacher walks from noise to picture in twenty steps without
guidance; the schedule's four levels lie on its way. The student learns each of the four straight
lines between them, so the same noise gives the same picture in a fifth of the steps. (Progressive
distillation of Salimans and Ho, 2022, in one go; the paths of a flow are deterministic.)
"""

from __future__ import annotations

import argparse
import copy
import json

import torch
from torch import Tensor, nn

from training import evaluation, latents, loop, lora, options, sampling, trained
from training.data import concepts as table
from training.drawings import draw_sets
from training.latents import Codec
from training.network import SHAPE
from training.prompts import Pool
from training.styles import BASE_SETS, paint_plain
from training.text_encoder import encode

STEPS = 4
TEACHER_STEPS = 20
RANK = 32
METADATA = {
    "modelspec.title": "Turbo",
    "modelspec.description": "Four steps without guidance; fused into the embedded base.",
}


@torch.no_grad()
def waypoints(teacher: nn.Module, text: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """The teacher's states at the student's levels [STEPS + 1, B, 256, C], and the levels."""
    fine, coarse = sampling.schedule(TEACHER_STEPS), sampling.schedule(STEPS)
    stride = TEACHER_STEPS // STEPS

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        return teacher(x, text, sigma)

    states = [noise]
    for start in range(0, TEACHER_STEPS, stride):
        leg = fine[start : start + stride + 1]
        states.append(sampling.trajectory(velocity, states[-1], leg))
    return torch.stack(states), coarse.to(noise.device)


def distillation_loss(student: nn.Module, teacher: nn.Module, text: Tensor) -> Tensor:
    """Squared error of the velocity on all four legs of one batch of prompts' paths."""
    noise = torch.randn(len(text), 256, SHAPE["in_channels"], device=text.device)
    states, levels = waypoints(teacher, text, noise)
    drop = (levels[:-1] - levels[1:]).view(-1, 1, 1, 1)
    target = ((states[:-1] - states[1:]) / drop).flatten(0, 1)
    wide = text.repeat(STEPS, 1, 1)
    sigma = levels[:-1].repeat_interleave(len(text))
    v = student(states[:-1].flatten(0, 1), wide, sigma)
    errors = (v.float() - target).square().flatten(1).mean(1)
    # An error moves the picture by the length of its leg.
    weight = drop.flatten() / drop.mean()
    return (errors * weight.repeat_interleave(len(text))).mean()


def train(chosen: argparse.Namespace) -> None:
    """Distils for a fixed time, then saves the LoRA, the curve and scores."""
    torch.manual_seed(chosen.seed)
    device = torch.device(chosen.device)
    torch.set_float32_matmul_precision("high")
    concepts = table.read()[: chosen.concepts]
    sets = draw_sets(chosen.cache, BASE_SETS, concepts, chosen.workers, device)
    references = latents.references(sets, paint_plain)
    del sets
    base = trained.load_base(chosen.bank, device)
    pool = Pool(base.tokenizer, concepts, 12, chosen.seed, device)
    student = lora.attach(copy.deepcopy(base.network), RANK)
    if chosen.compile:
        student.compile_blocks()
        base.network.compile_blocks()

    def losses() -> dict[str, Tensor]:
        with torch.no_grad():
            text = encode(base.text, pool.draw(chosen.batch).ids)
        return {"legs": distillation_loss(student, base.network, text)}

    plan = loop.Plan(chosen.seconds, chosen.rate, 0.3, chosen.report)
    result = {"curve": loop.run(student, losses, plan)}
    lora.save(student, chosen.out / "turbo.safetensors", METADATA)
    (chosen.out / "turbo.json").write_text(json.dumps(result))

    codec = Codec(chosen.bank / trained.VAE, device)
    plain = Pool(base.tokenizer, concepts, 4, chosen.seed + 1, device, open_share=0.0)
    exam = evaluation.Exam(plain, base.text, codec, references, chosen.examined)
    scores = {}
    for name, network, steps in (
        *((f"turbo-{steps}", student, steps) for steps in (1, 2, 3, 4)),
        *((f"base-{steps}", base.network, steps) for steps in (4, 20)),
    ):
        scores[name] = exam(network, steps, chosen.out / f"{name}.jpg")._asdict()
        print(name, scores[name], flush=True)
    (chosen.out / "turbo.json").write_text(json.dumps(result | {"scores": scores}))


def main() -> None:
    """Command line."""
    parser = options.parser(__doc__)
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--batch", type=int, default=256, help="paths in a step")
    parser.add_argument("--examined", type=int, default=256, help="prompts drawn at the end")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--report", type=int, default=50, help="steps between two lines")
    parser.add_argument("--seed", type=int, default=2)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
