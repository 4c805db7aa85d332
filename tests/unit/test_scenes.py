"""Painted scenes: the same bytes from the same seed, and boxes for subjects where words say."""

from __future__ import annotations

import hashlib
import itertools
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from training.data.scenes import (
    LAYOUTS,
    PLACES,
    SETTINGS,
    Anchor,
    Layout,
    arrange,
    paint,
    plain,
    words,
)
from training.data.scenes.anchors import CELLS, EDGES, RELATIONS, SIDES, Stage
from training.data.scenes.raster import raster

ALL = [(name, light) for name, entry in SETTINGS.items() for light in entry.lights]
REQUIRED = (
    *("snow", "forest", "meadow", "sea", "beach", "underwater", "mountain", "desert", "city"),
    *("street", "room", "table", "sky", "night sky", "space", "sunset", "rain", "fog", "garden"),
    *("farm", "river", "lake", "road"),
)


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


STAGES = {f"{name}, {light}": paint(name, light, 3).stage for name, light in ALL}
STAGES["plain"] = plain((250, 210, 60)).stage
EVERY_STAGE = pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)


def layouts(count: int) -> list[Layout]:
    return [layout for layout in LAYOUTS if layout.count == count]


def middle(anchor: Anchor) -> float:
    """Cells from the frame's middle to the right."""
    return anchor.left + anchor.edge / 2 - CELLS / 2


def test_there_is_a_layout_for_all_that_words_can_say() -> None:
    assert len(set(LAYOUTS)) == len(LAYOUTS)
    wanted = [Layout(count) for count in range(5)]
    wanted += [Layout(2, relation=relation) for relation in RELATIONS]
    wanted += [Layout(1, z, side) for z in ("small", None, "large") for side in (None, *SIDES)]
    assert set(wanted) == set(LAYOUTS)


@EVERY_STAGE
def test_every_box_lies_in_the_frame_and_stands_on_the_ground(stage: Stage) -> None:
    for layout, place in itertools.product(LAYOUTS, range(PLACES)):
        placed = arrange(stage, layout, place)
        assert len(placed) == layout.count
        assert placed == arrange(stage, layout, place)
        for anchor in placed:
            case = layout, place, anchor
            assert isinstance(anchor.left, int) and isinstance(anchor.top, int), case
            assert anchor.edge in EDGES, case
            assert anchor.left >= 0 and anchor.left + anchor.edge <= CELLS, case
            assert anchor.top >= 0 and anchor.base <= CELLS, case
            if stage.ground is None:
                assert not (anchor.shadow or anchor.sink or anchor.foam), case
            elif layout.relation not in ("above", "below"):
                assert anchor.base > CELLS * stage.ground, case
                assert anchor.shadow == stage.shadow and anchor.sink == stage.sink, case
                assert anchor.foam == stage.foam, case


@EVERY_STAGE
def test_a_single_subject_has_the_size_and_the_side_that_words_give(stage: Stage) -> None:
    edges = (
        {"small": 6, None: 12, "large": 12} if stage.plain else {"small": 4, None: 8, "large": 12}
    )
    for layout, place in itertools.product(layouts(1), range(PLACES)):
        (anchor,) = arrange(stage, layout, place)
        assert anchor.edge == edges[layout.size]
        if layout.side == "left":
            assert middle(anchor) <= -2
        elif layout.side == "right":
            assert middle(anchor) >= 2
        elif layout.side == "centre":
            assert middle(anchor) == 0
    # Without a side, the place decides, about the middle.
    for size in ("small", None, "large"):
        offsets = [middle(arrange(stage, Layout(1, size), place)[0]) for place in range(PLACES)]
        assert sum(offsets) == 0 and len(set(offsets)) >= 3


@EVERY_STAGE
def test_relations_put_the_first_subject_where_the_caption_says(stage: Stage) -> None:
    orders = set()
    for place in range(PLACES):
        by = {
            relation: arrange(stage, Layout(2, relation=relation), place) for relation in RELATIONS
        }
        for relation, (first, second) in by.items():
            if relation == "left of":
                assert first.left + first.edge < second.left
            elif relation == "right of":
                assert second.left + second.edge < first.left
            elif relation == "above":
                assert first.base <= second.top and first.left == second.left
                assert not first.shadow
            elif relation == "below":
                assert second.base <= first.top and first.left == second.left
                assert not second.shadow
            else:
                assert first.base == second.base
                orders.add(first.left < second.left)
        assert arrange(stage, Layout(2), place) == by["next to"]
    assert orders == {True, False}  # the place decides who is on the left


@EVERY_STAGE
@pytest.mark.parametrize("count", [2, 3, 4])
def test_boxes_of_several_subjects_hardly_overlap(stage: Stage, count: int) -> None:
    for layout, place in itertools.product(layouts(count), range(PLACES)):
        for a, b in itertools.combinations(arrange(stage, layout, place), 2):
            wide = min(a.left + a.edge, b.left + b.edge) - max(a.left, b.left)
            high = min(a.base, b.base) - max(a.top, b.top)
            assert max(0, wide) * max(0, high) <= 0.25 * min(a.edge, b.edge) ** 2, (layout, place)


@EVERY_STAGE
def test_places_differ(stage: Stage) -> None:
    for layout in LAYOUTS:
        if layout.count and layout.side is None and layout.relation != "next to":
            found = {tuple(arrange(stage, layout, place)) for place in range(PLACES)}
            assert len(found) >= 3, layout


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
