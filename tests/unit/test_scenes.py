"""Painted scenes: the same bytes from the same seed, anchors in the frame, and the compositor."""

from __future__ import annotations

import hashlib
import itertools
import random
import re
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from torch import Tensor
from training.data.scenes.composing import COLUMNS, batch_of, compose

from training.data.scenes import SETTINGS, Anchor, anchors, arrange, paint, plain, words
from training.data.scenes.anchors import RELATIONS, SIDES, SIZES
from training.data.scenes.colour import LIGHTS, tint
from training.data.scenes.raster import raster

ALL = [(name, light) for name, entry in SETTINGS.items() for light in entry.lights]
REQUIRED = (
    *("snow", "forest", "meadow", "sea", "beach", "underwater", "mountain", "desert", "city"),
    *("street", "room", "table", "sky", "night sky", "space", "sunset", "rain", "fog", "garden"),
    *("farm", "river", "lake", "road"),
)
SIZE = 128


def test_every_required_setting_is_there_with_words_in_both_languages() -> None:
    table = words.read()
    assert set(REQUIRED) <= set(SETTINGS)
    assert set(table) == set(SETTINGS)
    assert set(words.read(words.LIGHTS_TABLE)) == {light for _, light in ALL}
    for entry in table.values():
        for column in words.COLUMNS:
            assert 3 <= len(getattr(entry, column)) <= 6
        assert all(text.isascii() for text in entry.english + entry.english_places)
        assert all(re.fullmatch(r"[\u4e00-\u9fff]+", t) for t in entry.chinese)


@pytest.mark.parametrize("name, light", ALL)
def test_a_seed_gives_the_same_valid_svg_and_another_seed_another(name: str, light: str) -> None:
    scene, again, other = paint(name, light, 5), paint(name, light, 5), paint(name, light, 6)
    assert (scene.back, scene.front, scene.stage) == (again.back, again.front, again.stage)
    assert scene.back != other.back
    for text in (scene.back, scene.front):
        root = ElementTree.fromstring(text)
        assert root.get("viewBox") == "0 0 1024 1024"
        defined = {e.get("id") for e in root.iter() if e.get("id")}
        assert set(re.findall(r"url\(#(\w+)\)", text)) <= defined
        assert "nan" not in text and "inf" not in text


def test_the_text_is_the_recorded_one_on_every_machine() -> None:
    text = paint("snow", "night", 7).back
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "32d998e67acae320"


def test_an_unknown_setting_or_light_is_an_error() -> None:
    with pytest.raises(KeyError):
        paint("volcano", "day", 0)
    with pytest.raises(KeyError):
        paint("space", "day", 0)


def inside(anchor: Anchor) -> bool:
    return (
        anchor.x - anchor.edge / 2 >= -0.01
        and anchor.x + anchor.edge / 2 <= 1.01
        and anchor.y - anchor.edge >= -0.01
        and anchor.y <= 1.0
        and anchor.edge > 0.15
    )


@pytest.mark.parametrize("name, light", ALL)
def test_all_anchors_lie_in_the_frame_and_stand_on_the_ground(name: str, light: str) -> None:
    stage = paint(name, light, 3).stage
    fixed = anchors(stage)
    assert {f"{size} {side}" for size in SIZES for side in SIDES} <= set(fixed)
    rng = random.Random(f"{name}{light}")
    placed = list(fixed.values())
    for count in range(1, 5):
        for _ in range(20):
            placed += arrange(rng, stage, count)
    placed += arrange(rng, stage, floats=True)
    for anchor in placed:
        assert inside(anchor), anchor
        assert anchor.stands == (stage.ground is not None) or not anchor.stands
        if anchor.stands:
            assert stage.ground is not None and stage.ground < anchor.y


@pytest.mark.parametrize("name", ["meadow", "space", "sea", "table"])
def test_relations_put_the_first_subject_where_the_caption_says(name: str) -> None:
    stage = paint(name, next(iter(SETTINGS[name].lights)), 3).stage
    for seed in range(30):
        rng = random.Random(seed)
        for relation in RELATIONS:
            first, second = arrange(rng, stage, 2, relation=relation)
            if relation == "left of":
                assert first.x < second.x - 0.25
            if relation == "right of":
                assert first.x > second.x + 0.25
            if relation == "above":
                assert first.y <= second.y - second.edge + 0.1 and not first.stands
            if relation == "below":
                assert second.y <= first.y - first.edge + 0.1 and not second.stands


@pytest.mark.parametrize("count", [2, 3, 4])
def test_boxes_of_several_subjects_hardly_overlap(count: int) -> None:
    for name, seed in itertools.product(("meadow", "space", "river"), range(20)):
        stage = paint(name, next(iter(SETTINGS[name].lights)), 3).stage
        for a, b in itertools.combinations(arrange(random.Random(seed), stage, count), 2):
            wide = min(a.x + a.edge / 2, b.x + b.edge / 2) - max(a.x - a.edge / 2, b.x - b.edge / 2)
            high = min(a.y, b.y) - max(a.y - a.edge, b.y - b.edge)
            shared = max(0.0, wide) * max(0.0, high)
            assert shared <= 0.25 * min(a.edge, b.edge) ** 2


def test_an_unknown_count_relation_or_size_is_an_error() -> None:
    stage = paint("meadow", "day", 0).stage
    rng = random.Random(0)
    for wrong in ({"count": 5}, {"count": 0}, {"relation": "above"}, {"size": "huge"}):
        with pytest.raises(ValueError):
            arrange(rng, stage, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError):
        arrange(rng, stage, 2, relation="behind")


def blank(batch: int = 1, *, value: int = 255) -> tuple[Tensor, Tensor]:
    """A plain back and an empty front."""
    back = torch.full((batch, SIZE, SIZE, 3), value, dtype=torch.uint8)
    return back, torch.zeros(batch, SIZE, SIZE, 4, dtype=torch.uint8)


def square(colour: tuple[int, int, int] = (200, 40, 40), border: int = 10) -> Tensor:
    """An opaque square of 60 px with an empty border, [1, 1, h, w, 4]."""
    sprite = torch.zeros(60 + 2 * border, 60 + 2 * border, 4, dtype=torch.uint8)
    sprite[border : border + 60, border : border + 60] = torch.tensor([*colour, 255])
    return sprite[None, None]


def at(*placed: Anchor) -> Tensor:
    return torch.tensor([[anchor.columns() for anchor in placed]])


PLAIN = torch.tensor([tint()])
DARK = torch.zeros(1, 3)


@pytest.mark.parametrize("border", [0, 10, 40])
def test_a_subject_covers_its_box_and_nothing_else(border: int) -> None:
    anchor = Anchor(0.4, 0.75, 0.5)
    image = compose(*blank(), square(border=border), at(anchor), PLAIN, DARK)
    assert image.shape == (1, SIZE, SIZE, 3) and image.dtype == torch.uint8
    covered = (image[0] == torch.tensor([200, 40, 40])).all(-1)
    rows, columns = covered.nonzero().T
    assert abs(rows.min() - 0.25 * SIZE) <= 1 and abs(rows.max() + 1 - 0.75 * SIZE) <= 1
    assert abs(columns.min() - 0.15 * SIZE) <= 1 and abs(columns.max() + 1 - 0.65 * SIZE) <= 1
    away = torch.ones(SIZE, SIZE, dtype=torch.bool)
    away[30:98, 17:86] = False
    assert bool((image[0][away] == 255).all())


def test_a_great_reduction_keeps_the_mean_of_a_fine_pattern() -> None:
    sprite = torch.zeros(1, 1, 512, 512, 4, dtype=torch.uint8)
    sprite[..., 3] = 255
    sprite[:, :, :, ::2, :3] = 255
    image = compose(*blank(value=0), sprite, at(Anchor(0.5, 0.75, 0.5)), PLAIN, DARK)
    inner = image[0, 40:88, 40:88].float()
    assert (inner - 127.5).abs().max() < 8


def test_a_batch_is_filled_up_with_empty_slots() -> None:
    scenes = [paint("snow", "night", 0), plain((252, 212, 64))]
    placed = [
        arrange(random.Random(i), scene.stage, count)
        for i, (scene, count) in enumerate(zip(scenes, (3, 1), strict=True))
    ]
    placements, rows, shade = batch_of(scenes, placed)
    assert placements.shape == (2, 3, len(COLUMNS)) and placements.dtype == torch.float32
    assert rows.shape == (2, 3, 4) and shade.shape == (2, 3)
    assert placements[1, 1:].abs().max() == 0 and placements[..., 2][0].min() > 0
    back, front = blank(2)
    subjects = square().expand(2, 3, -1, -1, -1)
    image = compose(back, front, subjects, placements, rows, shade)
    assert (image[1] != 255).any(-1).float().mean() <= placed[1][0].edge ** 2 * 1.1


def test_an_edge_of_zero_leaves_the_slot_empty() -> None:
    empty = Anchor(0.5, 0.5, 0.0, shadow=1.0, sink=0.1, foam=1.0)
    image = compose(*blank(), square(), at(empty), PLAIN, DARK)
    assert bool((image == 255).all())


def test_a_subject_outside_the_frame_changes_nothing() -> None:
    image = compose(*blank(), square(), at(Anchor(3.0, 0.5, 0.3, shadow=1.0)), PLAIN, DARK)
    assert bool((image == 255).all())


def test_the_shadow_darkens_the_ground_about_the_base_only() -> None:
    with_shadow = Anchor(0.5, 0.7, 0.3, shadow=0.5)
    image = compose(*blank(), square(), at(with_shadow), PLAIN, DARK)[0, :, :, 0]
    assert image[int(0.72 * SIZE), SIZE // 2] < 200
    assert image[int(0.3 * SIZE), SIZE // 2] == 255 and image[-4, SIZE // 2] == 255
    none = compose(*blank(), square(), at(Anchor(0.5, 0.7, 0.3)), PLAIN, DARK)[0, :, :, 0]
    assert none[int(0.72 * SIZE), SIZE // 2] == 255


def test_a_sunken_subject_ends_at_the_surface() -> None:
    anchor = Anchor(0.5, 0.8, 0.5, sink=0.3)
    image = compose(*blank(), square((0, 0, 0)), at(anchor), PLAIN, DARK)[0, :, :, 0]
    assert image[int(0.5 * SIZE), SIZE // 2] == 0
    assert image[int(0.78 * SIZE), SIZE // 2] > 240


def test_night_darkens_and_cools_and_sunset_warms() -> None:
    grey = square((160, 160, 160))
    seen = {}
    for name in ("day", "night", "sunset"):
        rows = torch.tensor([LIGHTS[name].tint])
        image = compose(*blank(), grey, at(Anchor(0.5, 0.8, 0.5)), rows, DARK)
        seen[name] = image[0, SIZE // 2, SIZE // 2].tolist()
    assert seen["day"] == [160, 160, 160]
    assert seen["night"][0] < seen["night"][2] < 160
    assert seen["sunset"][0] > seen["sunset"][2]


def test_the_front_layer_covers_subjects() -> None:
    back, front = blank()
    front[:, 64:] = torch.tensor([0, 0, 255, 255], dtype=torch.uint8)
    image = compose(back, front, square(), at(Anchor(0.5, 0.8, 0.5)), PLAIN, DARK)
    assert image[0, 50, 64].tolist() == [200, 40, 40]
    assert image[0, 80, 64].tolist() == [0, 0, 255]


def test_near_subjects_cover_far_ones_in_any_order() -> None:
    near, far = Anchor(0.5, 0.8, 0.4), Anchor(0.5, 0.7, 0.4)
    red, blue = square((255, 0, 0)), square((0, 0, 255))
    for subjects, placed in (((red, blue), (near, far)), ((blue, red), (far, near))):
        image = compose(*blank(), torch.cat(subjects, 1), at(*placed), PLAIN, DARK)
        assert image[0, int(0.6 * SIZE), SIZE // 2].tolist() == [255, 0, 0]


def test_a_batch_gives_what_its_images_give_alone() -> None:
    generator = torch.Generator().manual_seed(1)
    back = torch.randint(0, 256, (3, SIZE, SIZE, 3), generator=generator, dtype=torch.uint8)
    front = torch.randint(0, 256, (3, SIZE, SIZE, 4), generator=generator, dtype=torch.uint8)
    subjects = torch.randint(0, 256, (3, 2, 90, 90, 4), generator=generator, dtype=torch.uint8)
    subjects[1, :, :40, :, 3] = 0
    placements = torch.rand(3, 2, len(COLUMNS), generator=generator) * 0.5 + 0.2
    rows = torch.stack([torch.tensor(LIGHTS[name].tint) for name in ("day", "night", "sunset")])
    shade = torch.rand(3, 3, generator=generator)
    together = compose(back, front, subjects, placements, rows, shade)
    for i in range(3):
        part = slice(i, i + 1)
        alone = compose(
            back[part], front[part], subjects[part], placements[part], rows[part], shade[part]
        )
        assert (alone.int() - together[part].int()).abs().max() <= 1


@pytest.mark.parametrize("name", list(SETTINGS))
def test_layers_render_to_the_documented_shapes(name: str) -> None:
    pytest.importorskip("resvg_py")
    for seed, light in enumerate(SETTINGS[name].lights):
        scene = paint(name, light, seed)
        back, front = scene.pixels(256)
        assert back.shape == (256, 256, 3) and front.shape == (256, 256, 4)
        assert back.dtype == front.dtype == np.uint8
        assert front[..., 3].mean() < 0.5 * 255
        assert back.std() > 10
        # Nothing of the front layer is cut off at `front_top`; an edge may be smoothed otherwise.
        changed = np.abs(raster(scene.front, 256).astype(int) - front)[..., 3] > 2
        assert changed.sum() < 10


@pytest.mark.parametrize("name", list(SETTINGS))
def test_back_layers_have_no_holes(name: str) -> None:
    pytest.importorskip("resvg_py")
    for light in SETTINGS[name].lights:
        for seed in range(8):
            back = raster(paint(name, light, seed).back, 64)
            assert back[..., 3].min() == 255, (light, seed)
