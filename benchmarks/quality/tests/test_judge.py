"""Tests of the judge: labels say what images show; readings are reported as they are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.quality.judge import accuracy, distortions, reading
from benchmarks.quality.judge.network import CELLS, EDGE, GROUND, Judge, Read
from benchmarks.quality.judge.samples import NONE, Labels, Sampler
from benchmarks.quality.judge.train import losses
from training import composition
from training.composition import Images, Shown
from training.data.prose.paints import PAINTS
from training.data.scenes import LAYOUTS, PLACES, Stage, arrange
from training.data.sprites import CELL
from training.grounds import Kind
from training.renderings import Rendered

KINDS = (Kind("snow", "night"), Kind(colour=3))
SHADES = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
"""Colours of three subjects, on a grey ground."""


def _squares(images: Images, shown: Shown, top: Tensor, left: Tensor, edge: int) -> Tensor:
    """Stands for `compose`, which takes seconds on a CPU: each subject is a square."""
    made = torch.full((len(top), 3, edge, edge), 0.5)
    for n, boxes in enumerate(shown.boxes):
        for concept, box in zip(shown.concepts[n], (boxes * CELL).long().tolist(), strict=True):
            x, y, size = (max(0, value) for value in box[:3])
            made[n, :, y : y + size, x : x + size] = SHADES[concept][:, None, None]
    return made


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> Rendered:
    monkeypatch.setattr(composition, "compose", _squares)
    stages = (Stage(ground=0.5), Stage(ground=None, plain=True))
    boxes = torch.zeros(2, len(LAYOUTS), PLACES, 4, 6)
    subject = torch.zeros(2, len(LAYOUTS), PLACES, 4, dtype=torch.long)
    for g, stage in enumerate(stages):
        for k, layout in enumerate(LAYOUTS):
            for place in range(PLACES):
                for n, a in enumerate(arrange(stage, layout, place)):
                    row = (a.left, a.top, a.edge, a.sink, a.shadow, a.foam)
                    boxes[g, k, place, n] = torch.tensor(row)
                    subject[g, k, place, n] = n if layout.count == 2 else 0
    nothing = torch.zeros(0)
    return Rendered(
        Images(nothing, nothing, nothing, nothing, nothing),
        torch.zeros(3, 2),
        boxes,
        subject,
        torch.tensor([0, 1]),
        torch.tensor([1, 1]),
    )


@pytest.mark.parametrize("distorted", [False, True])
def test_labels_tell_what_the_images_show(rendered: Rendered, distorted: bool) -> None:
    torch.manual_seed(3)
    images, labels = Sampler(rendered, KINDS, compiled=False, distorted=distorted)(16)
    assert images.shape == (16, 3, EDGE, EDGE) and 0 <= images.min() <= images.max() <= 1
    size = EDGE // CELLS
    seen = 0
    for n, y, x in (labels.there > 0).nonzero().tolist():
        cell = images[n, :, y * size : (y + 1) * size, x * size : (x + 1) * size].mean((1, 2))
        # The nearest middle may lie behind another box.
        seen += int(cell.argmax()) == int(labels.concept[n, y, x])
    total = int((labels.there > 0).sum())
    assert total > 20 and seen >= 0.9 * total
    plain = labels.setting == GROUND[0] - 1
    assert (labels.light[plain] == NONE).all() and (labels.colour[plain] == 3).all()
    assert (labels.colour[~plain] == NONE).all() and (labels.light[~plain] == 2).all()


def _perfect(labels: Labels, concepts: int) -> Read:
    """Logits of a judge that is always right."""

    def logits(classes: Tensor, count: int) -> Tensor:
        hot = F.one_hot(classes.clamp(min=0), count).float() * 20
        return hot.movedim(-1, 1) if hot.dim() > 2 else hot

    return Read(
        logits(labels.setting, GROUND[0]),
        logits(labels.light, GROUND[1]),
        logits(labels.colour, GROUND[2]),
        torch.where(labels.there > 0, 10.0, -10.0),
        labels.edge,
        logits(labels.paint, len(PAINTS)),
        logits(labels.concept, concepts),
    )


def test_a_judge_that_is_always_right_has_full_accuracy(rendered: Rendered) -> None:
    torch.manual_seed(4)
    sampler = Sampler(rendered, KINDS, compiled=False, distorted=False)
    batches = [sampler(16) for _ in range(3)]
    reads = iter([_perfect(labels, 3) for _, labels in batches])

    class Oracle(Judge):
        def forward(self, images: Tensor) -> Read:
            return next(reads)

    replay = iter(batches)
    *_, found = accuracy.measure(Oracle(3), lambda count: next(replay), 48)  # type: ignore[arg-type]
    assert {"setting", "light", "count", "subject, first", "both", "places"} <= set(found)
    assert all(share == 100 for share in found.values()), found


def test_distortions_lose_detail_but_keep_the_image() -> None:
    torch.manual_seed(6)
    edge = EDGE
    line = torch.linspace(0, 1, edge)
    smooth = torch.stack([line.expand(edge, edge), line[:, None].expand(edge, edge),
                          torch.full((edge, edge), 0.5)])  # fmt: skip
    fine = smooth + 0.2 * (torch.arange(edge) % 2 - 0.5)
    images = fine.expand(64, -1, -1, -1).clamp(0, 1)
    made = distortions.distorted(images)
    assert made.shape == images.shape and 0 <= made.min() <= made.max() <= 1
    same = (made == images).flatten(1).all(1)
    assert 0.05 < same.float().mean() < 0.4
    changed = made[~same]
    # What a small network draws is there, roughly where it was, in roughly its colour.
    assert (F.avg_pool2d(changed, 48) - F.avg_pool2d(images[:1], 48)).abs().mean() < 0.08
    ripple = (changed[..., 1:] - changed[..., :-1]).abs().mean((1, 2, 3))
    original = float((images[0, ..., 1:] - images[0, ..., :-1]).abs().mean())
    assert (ripple < 0.6 * original).float().mean() > 0.3


def test_noise_has_grains_of_several_pixels() -> None:
    torch.manual_seed(7)
    added = distortions.noisy(torch.full((256, 3, EDGE, EDGE), 0.5)) - 0.5
    grains = F.avg_pool2d(added, 8).std((1, 2, 3))
    # White noise of the same strength would have an eighth of its deviation left.
    assert grains.max() > 0.02 and (grains > added.std((1, 2, 3)) / 4).float().mean() > 0.3


def test_losses_are_finite_and_fall(rendered: Rendered) -> None:
    torch.manual_seed(5)
    images, labels = Sampler(rendered, KINDS, compiled=False, distorted=True)(8)
    network = Judge(3)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    totals = []
    for _ in range(12):
        loss = torch.stack(list(losses(network, images, labels).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        totals.append(loss.item())
    assert np.isfinite(totals).all() and totals[-1] < 0.7 * totals[0]


def test_saved_weights_fit_only_their_concepts(tmp_path: Path) -> None:
    path = tmp_path / "judge.safetensors"
    with pytest.raises(reading.JudgeError, match="missing"):
        reading.load(["a"], torch.device("cpu"), path)
    network = Judge(594)
    reading.save(network, [f"c{n}" for n in range(594)], path)
    assert path.stat().st_size < 8e6
    loaded = reading.load([f"c{n}" for n in range(594)], torch.device("cpu"), path)
    image = torch.randint(0, 256, (3, 512, 512), dtype=torch.uint8)
    (found,) = reading.judge(loaded, [image])
    assert found.scores.shape == (594,)
    with pytest.raises(reading.JudgeError, match="other concepts"):
        reading.load([f"d{n}" for n in range(594)], torch.device("cpu"), path)
