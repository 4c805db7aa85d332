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
from pathlib import Path

import torch
from torch import Tensor, nn

from training import evaluation, latents, loop, lora, sampling, trained
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
    "modelspec.architecture": "qwen-image/lora",
    "modelspec.description": "Four steps without guidance; fused into the embedded base.",
    "modelspec.license": "Apache-2.0",
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
    torch._dynamo.mark_dynamic(wide, 1)
    sigma = levels[:-1].repeat_interleave(len(text))
    v = student(states[:-1].flatten(0, 1), wide, sigma)
    errors = (v.float() - target).square().flatten(1).mean(1)
    # An error moves the picture by the length of its leg.
    weight = drop.flatten() / drop.mean()
    return (errors * weight.repeat_interleave(len(text))).mean()


def train(options: argparse.Namespace) -> None:
    """Distils for a fixed time, then saves the LoRA, the curve and scores."""
    torch.manual_seed(options.seed)
    # Only the prompt's length changes; a graph for any batch would be slower.
    torch._dynamo.config.automatic_dynamic_shapes = False
    device = torch.device(options.device)
    torch.set_float32_matmul_precision("high")
    concepts = table.read()[: options.concepts]
    sets = draw_sets(options.cache, BASE_SETS, concepts, options.workers, device)
    references = latents.references(sets, paint_plain)
    del sets
    base = trained.load_base(options.bank, device)
    pool = Pool(base.tokenizer, concepts, 12, options.seed, device)
    student = lora.attach(copy.deepcopy(base.network), RANK)
    fast_student = torch.compile(student) if options.compile else student
    fast_teacher = torch.compile(base.network) if options.compile else base.network

    def losses() -> dict[str, Tensor]:
        with torch.no_grad():
            text = encode(base.text, pool.draw(options.batch).ids)
        torch._dynamo.mark_dynamic(text, 1)
        return {"legs": distillation_loss(fast_student, fast_teacher, text)}

    plan = loop.Plan(options.seconds, options.rate, 0.3, options.report)
    result = {"curve": loop.run(student, losses, plan)}
    lora.save(student, options.out / "turbo.safetensors", METADATA)
    (options.out / "turbo.json").write_text(json.dumps(result))

    codec = Codec(options.bank / trained.VAE, device)
    plain = Pool(base.tokenizer, concepts, 4, options.seed + 1, device, open_share=0.0)
    exam = evaluation.Exam(plain, base.text, codec, references, options.examined)
    scores = {}
    for name, network, steps in (
        *((f"turbo-{steps}", student, steps) for steps in (1, 2, 3, 4)),
        *((f"base-{steps}", base.network, steps) for steps in (4, 20)),
    ):
        scores[name] = exam(network, steps, options.out / f"{name}.jpg")._asdict()
        print(name, scores[name], flush=True)
    (options.out / "turbo.json").write_text(json.dumps(result | {"scores": scores}))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path(".run/training"))
    parser.add_argument("--bank", type=Path, default=trained.BANK)
    parser.add_argument("--out", type=Path, default=trained.BANK)
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--batch", type=int, default=256, help="paths in a step")
    parser.add_argument("--concepts", type=int, default=None, help="only the first of the table")
    parser.add_argument("--examined", type=int, default=256, help="prompts drawn at the end")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--report", type=int, default=50, help="steps between two lines")
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
