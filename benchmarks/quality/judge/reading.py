"""Loads the trained judge, and turns what it reads into subjects with places."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from benchmarks.quality.judge.network import CELLS, Judge, Read
from benchmarks.quality.judge.samples import resized

WEIGHTS: Final = Path(__file__).with_name("judge.safetensors")
THERE: Final = 0.5
"""Probability from which on a cell holds a subject."""
APART: Final = 0.4
"""Subjects nearer than this share of the larger one's edge are one."""
AT_ONCE: Final = 64


class JudgeError(Exception):
    """The judge's weights do not fit; the message says why."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One subject in an image; places are shares of the frame from the left and from the top."""

    concept: int
    paint: int
    x: float
    y: float
    edge: float


@dataclass(frozen=True, slots=True)
class Judgement:
    """What an image shows.

    Attributes:
        setting: Index in SETTINGS, or their number for a plain background.
        light: Index in DAYTIMES, where there is a setting.
        colour: Index in `captions.COLOURS`, where the background is plain.
        subjects: The clearest first.
        scores: How clearly each concept is seen [concepts], 0..1.
        places: Where each concept is seen most clearly [concepts, 2], x and y.
    """

    setting: int
    light: int
    colour: int
    subjects: tuple[Seen, ...]
    scores: Tensor
    places: Tensor

    def rank(self, concept: int) -> int:
        """Counts the concepts that are seen more clearly."""
        return int((self.scores > self.scores[concept]).sum())


def judgements(read: Read) -> list[Judgement]:
    """Reads a batch of logits."""
    there = read.there.float().sigmoid()
    highest = F.max_pool2d(there[:, None], 3, stride=1, padding=1)[:, 0]
    named = read.concept.float().softmax(1)
    scores, cells = (named * there[:, None]).flatten(2).max(2)
    places = torch.stack([cells % CELLS, cells // CELLS], -1)
    places = ((places + 0.5) / CELLS).cpu()
    top, paint = named.argmax(1).cpu(), read.paint.argmax(1).cpu()
    edge = read.edge.float().cpu()
    peaks = ((there == highest) & (there >= THERE)).cpu()
    there, scores = there.cpu(), scores.cpu()
    made = []
    for n in range(len(there)):
        seen: list[Seen] = []
        found = peaks[n].nonzero()
        for y, x in sorted(found.tolist(), key=lambda cell: -float(there[n, cell[0], cell[1]])):
            one = Seen(
                int(top[n, y, x]),
                int(paint[n, y, x]),
                (x + 0.5) / CELLS,
                (y + 0.5) / CELLS,
                float(edge[n, y, x]),
            )
            if all(_apart(one, other) for other in seen):
                seen.append(one)
        classes = (int(part[n].argmax()) for part in (read.setting, read.light, read.colour))
        setting, light, colour = classes
        made.append(Judgement(setting, light, colour, tuple(seen), scores[n], places[n]))
    return made


def _apart(one: Seen, other: Seen) -> bool:
    far = max(abs(one.x - other.x), abs(one.y - other.y))
    return far >= APART * max(one.edge, other.edge)


@torch.inference_mode()
def judge(network: Judge, images: Sequence[Tensor]) -> list[Judgement]:
    """Judges images, uint8 [3, E, E], E at least 256."""
    device = network.cells.weight.device
    made = []
    for start in range(0, len(images), AT_ONCE):
        batch = torch.stack(list(images[start : start + AT_ONCE])).to(device).float() / 255
        made += judgements(network(resized(F.avg_pool2d(batch, batch.shape[-1] // 256))))
    return made


def save(network: Judge, codes: Sequence[str], path: Path = WEIGHTS) -> None:
    """Writes the weights in bf16, with the codes of the concepts; atomically."""
    half = {
        name: value.detach().to("cpu", torch.bfloat16).contiguous()
        for name, value in network.state_dict().items()
    }
    partial = path.with_suffix(".partial")
    save_file(half, partial, {"format": "pt", "concepts": json.dumps(list(codes))})
    partial.replace(path)


def load(codes: Sequence[str], device: torch.device, path: Path = WEIGHTS) -> Judge:
    """Loads the judge, fp32.

    Raises:
        JudgeError: It is not trained, or was on other concepts.
    """
    if not path.is_file():
        raise JudgeError(f"{path} is missing: run python -m benchmarks.quality.judge.train.")
    with safe_open(path, "pt") as file:
        if json.loads(file.metadata()["concepts"]) != list(codes):
            raise JudgeError(f"{path} was trained on other concepts; train it again.")
        weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    network = Judge(len(codes))
    network.load_state_dict(weights)
    return network.to(device).eval().requires_grad_(False)
