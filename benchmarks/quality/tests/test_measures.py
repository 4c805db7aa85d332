"""Tests of the quality measures, on synthetic images with known faults."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.quality import measures
from benchmarks.quality.prompts import choose, ten_seeds
from benchmarks.quality.scoring import ImageScore, Scores
from benchmarks.quality.store import Store, StoreEntry, fingerprint
from training.data import concepts
from training.data.captions import COLOURS

PALETTE = torch.tensor([c.rgb for c in COLOURS]) / 255
WHITE, RED, BLUE = (next(i for i, c in enumerate(COLOURS) if c.english[0] == name)
                    for name in ("white", "red", "blue"))  # fmt: skip
TABLE = concepts.read()


def image(
    ground: int, left: int = 96, top: int = 96, width: int = 64, height: int = 64, edge: int = 256
) -> Tensor:
    """Returns a dark green rectangle on a named background."""
    made = PALETTE[ground][:, None, None].repeat(1, edge, edge)
    made[:, top : top + height, left : left + width] = torch.tensor([0.0, 0.3, 0.1])[:, None, None]
    return made


REFERENCES = torch.stack(
    [
        image(WHITE),
        image(WHITE, width=120, left=68),
        image(WHITE, height=120, top=68),
        image(WHITE, left=20),
    ]
)


def test_distance_is_rms_in_rgb() -> None:
    black, grey = torch.zeros(3, 8, 8), torch.full((3, 8, 8), 0.25)
    half = grey.clone()
    half[:, :, :4] = 0
    measured = measures.distances(black, torch.stack([black, grey, half]))
    assert measured.tolist() == pytest.approx([0, 0.25, 0.25 / 2**0.5])


@pytest.mark.parametrize("shown", range(4))
def test_the_nearest_reference_is_the_one_shown(shown: int) -> None:
    noisy = REFERENCES[shown] + 0.1 * torch.randn(3, 256, 256, generator=torch.manual_seed(0))
    distance = measures.distances(noisy, REFERENCES)
    assert measures.rank(distance, shown) == 0
    # No other concept has rank 0.
    assert all(measures.rank(distance, other) > 0 for other in range(4) if other != shown)


def test_rank_counts_nearer_references_and_ties() -> None:
    distance = torch.tensor([0.3, 0.1, 0.2, 0.3])
    assert [measures.rank(distance, n) for n in range(4)] == [3, 0, 1, 3]


def test_pooling_averages_areas() -> None:
    stripes = torch.tensor([0.0, 1.0]).repeat(128).expand(3, 256, 256)
    assert measures.pooled(stripes, 64).shape == (3, 64, 64)
    assert torch.allclose(measures.pooled(stripes, 64), torch.tensor(0.5))


@pytest.mark.parametrize("ground", range(len(COLOURS)))
def test_the_border_gives_the_background(ground: int) -> None:
    shown = image(ground, left=0, top=100, width=200, height=40)
    assert measures.nearest_colour(measures.border_median(shown), PALETTE) == ground


def test_only_the_outer_border_gives_the_background() -> None:
    frame = image(RED, left=6, top=6, width=244, height=244)
    assert measures.nearest_colour(measures.border_median(frame), PALETTE) == RED
    sides = image(BLUE)
    sides[:, :, :6] = sides[:, :, -6:] = PALETTE[RED][:, None, None]
    sides[:, :6] = PALETTE[RED][:, None, None]
    assert measures.nearest_colour(measures.border_median(sides), PALETTE) == RED


@pytest.mark.parametrize(
    "place, offset",
    [
        ({}, 0.0),
        ({"left": 116}, 20 / 256),
        ({"top": 66}, 30 / 256),
        ({"left": 86, "top": 136}, 40 / 256),
        ({"left": 80, "width": 96}, 0.0),
    ],
)
def test_a_shifted_subject_is_off_centre(place: dict[str, int], offset: float) -> None:
    assert measures.off_centre(image(WHITE, **place)) == pytest.approx(offset)


def test_a_faint_difference_is_no_subject() -> None:
    plain = image(WHITE, width=0)
    assert measures.off_centre(plain) is None
    plain[:, 6:26, 6:26] -= 0.1
    assert measures.off_centre(plain) is None
    plain[:, 6:26, 6:26] -= 0.1
    assert measures.off_centre(plain) == pytest.approx(0.5 - 16 / 256)


def test_a_subject_that_fills_the_image_is_not_centred() -> None:
    noise = torch.rand(3, 256, 256, generator=torch.manual_seed(0))
    assert measures.off_centre(noise) is None
    assert measures.off_centre(image(WHITE, left=0, width=256)) is None


def test_blur_lowers_sharpness_and_noise_raises_it() -> None:
    right = image(WHITE)
    blurred = torch.nn.functional.interpolate(
        measures.pooled(right[None], 16), size=256, mode="bilinear"
    )[0]
    noisy = right + 0.05 * torch.randn(right.shape, generator=torch.manual_seed(0))
    assert measures.sharpness(right, right) == pytest.approx(1)
    assert measures.sharpness(blurred, right) < 0.95
    assert measures.sharpness(noisy, right) > 1.5
    assert measures.sharpness(0.5 * right, right) == pytest.approx(0.5)


def test_black_is_dark_or_without_any_difference() -> None:
    black = next(i for i, c in enumerate(COLOURS) if c.english[0] == "black")
    assert measures.is_black(torch.zeros(3, 256, 256))
    assert measures.is_black(torch.full((3, 256, 256), 0.5))
    assert not measures.is_black(image(black))
    assert not measures.is_black(image(WHITE))


def test_psnr_of_a_known_error() -> None:
    truth = torch.full((3, 8, 8), 0.5)
    assert measures.psnr(truth + 0.1, truth) == pytest.approx(20, abs=1e-3)


def test_scores_count_a_missing_image_as_a_miss() -> None:
    good = ImageScore(rank=0, distance=0.1, colour=True, sharpness=1.0, plain=0.2)
    poor = ImageScore(rank=4, distance=0.3, colour=False, sharpness=0.5, plain=0.2)
    scores = Scores.of([good, poor, ImageScore(5, 0.2, True, 0.6, 0.2), None])
    assert (scores.top1, scores.top5, scores.colour, scores.styled) == (25, 50, 50, 25)
    assert (scores.distance, scores.sharpness) == pytest.approx((0.2, 0.7))


def test_prompts_are_fixed_distinct_and_use_all_colours() -> None:
    prompts = choose(TABLE, 200)
    assert prompts == choose(TABLE, 200) and prompts[:50] == choose(TABLE, 50)
    assert len({p.concept for p in prompts}) == 200 and len({p.seed for p in prompts}) == 200
    assert {p.colour for p in prompts} == set(range(len(COLOURS)))
    assert {TABLE[p.concept].group for p in prompts} == {c.group for c in TABLE}
    ten = ten_seeds(TABLE)
    assert {p.english for p in ten} == {"a fox on a light blue background"}
    assert {p.chinese for p in ten} == {"浅蓝色背景上的狐狸"}
    assert len({p.seed for p in ten}) == 10


def test_other_weights_never_find_stored_images(tmp_path: Path) -> None:
    weights = tmp_path / "checkpoint"
    weights.mkdir()
    (weights / "a").write_bytes(b"1")
    before = fingerprint([weights], "cpu")
    kept = StoreEntry({"seconds": 1.5}, np.arange(12, dtype=np.uint8).reshape(3, 2, 2))
    store = Store(tmp_path / "kept", fresh=False)
    store.write(before, "fox", kept)
    found = store.read(before, "fox")
    assert found is not None and found.image is not None
    assert found.facts == kept.facts and (found.image == kept.image).all()
    assert store.read(before, "owl") is None
    assert Store(tmp_path / "kept", fresh=True).read(before, "fox") is None

    (weights / "a").write_bytes(b"2")
    assert fingerprint([weights], "cpu") != before != fingerprint([weights], "cuda")
    assert store.read(fingerprint([weights], "cpu"), "fox") is None
