"""Composition of training images: boxes, light, water, layers, and what tables say of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from training import renderings
from training.composition import BOX, SIZE, Images, Shown, compose, painted
from training.data.scenes import LAYOUTS, PLACES, Layout, Stage, arrange
from training.data.scenes.anchors import EDGES, MAX_SUBJECTS
from training.data.scenes.colour import LIGHTS, tint
from training.data.sprites import CELL, LENGTH, OFFSETS

RED, BLUE, GREY = (200, 40, 40), (40, 40, 200), (160, 160, 160)
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
WINDOW = 512
"""Edge in px that most tests look at: eight cells."""
OWN = (-1.0, -1.0, -1.0)


def pixel(colour: tuple[int, int, int], alpha: int = 255) -> int:
    """One premultiplied pixel in four bytes, as int32 holds it."""
    red, green, blue = (channel * alpha // 255 for channel in colour)
    value = red | green << 8 | blue << 16 | alpha << 24
    return value - (1 << 32) if value >= 1 << 31 else value


def layer(*values: int) -> Tensor:
    """Layers of one colour each [G, SIZE, SIZE]."""
    return torch.tensor(values, dtype=torch.int32)[:, None, None].repeat(1, SIZE, SIZE)


def images(
    *sprites: tuple[int, int, int],
    back: tuple[int, int, int] = WHITE,
    light: tuple[tuple[float, ...], ...] = tint(),
    shade: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Images:
    """Solid subjects, one ground of one colour, an empty front layer."""
    subjects = torch.tensor([pixel(colour) for colour in sprites or (RED,)], dtype=torch.int32)
    return Images(
        layer(pixel(back)),
        layer(0),
        torch.tensor([light]),
        torch.tensor([shade]),
        subjects[:, None].repeat(1, LENGTH),
    )


def box(left: int, top: int, edge: int, **parts: float) -> list[float]:
    """One row of `Shown.boxes`; a foot as wide as the box, unless given."""
    values = {"sink": 0.0, "shadow": 0.0, "foam": 0.0, "foot": 0.0, "half": 0.5} | parts
    return [left, top, edge, *(values[name] for name in BOX[3:])]


def show(
    *boxes: list[float],
    concepts: tuple[int, ...] | None = None,
    paints: list[tuple[float, float, float]] | None = None,
) -> Shown:
    """One image with these boxes, of subjects in their order."""
    return Shown(
        torch.zeros(1, dtype=torch.long),
        torch.tensor([concepts or tuple(range(len(boxes)))]),
        torch.tensor([boxes], dtype=torch.float32),
        torch.tensor([paints or [OWN] * len(boxes)]),
    )


def composed(parts: Images, shown: Shown, edge: int = WINDOW) -> Tensor:
    """Images from their top left corners, [B, 3, edge, edge], 0-255."""
    corner = torch.zeros(len(shown.ground), dtype=torch.long)
    return (compose(parts, shown, corner, corner, edge) * 255).round()


def at(image: Tensor, y: float, x: float) -> list[float]:
    """The colour at a place in cells."""
    return image[0, :, int(y * CELL), int(x * CELL)].tolist()


@pytest.mark.parametrize("edge", EDGES)
def test_a_subject_covers_exactly_its_box_in_its_own_size(edge: int) -> None:
    parts = images()
    # Another colour for each size, and another one in the first row's last pixel.
    colours = [pixel((10 * step + 10, 40, 40)) for step in range(len(EDGES))]
    step = EDGES.index(edge)
    for start, size, colour in zip(OFFSETS, EDGES, colours, strict=True):
        parts.sprites[0, start : start + (size * CELL) ** 2] = colour
    parts.sprites[0, OFFSETS[step] + edge * CELL - 1] = pixel(BLUE)
    image = composed(parts, show(box(2, 1, edge)), SIZE)
    assert image.shape == (1, 3, SIZE, SIZE)
    assert image[0, :, CELL, (2 + edge) * CELL - 1].tolist() == list(BLUE)
    image[0, :, CELL, (2 + edge) * CELL - 1] = torch.tensor([10.0 * step + 10, 40, 40])
    inside = image[0, :, CELL : (1 + edge) * CELL, 2 * CELL : (2 + edge) * CELL].clone()
    assert bool((inside == torch.tensor([10.0 * step + 10, 40, 40])[:, None, None]).all())
    inside = image[0, :, CELL : (1 + edge) * CELL, 2 * CELL : (2 + edge) * CELL]
    inside[:] = 255
    assert bool((image == 255).all())


def test_a_transparent_subject_shows_the_ground() -> None:
    parts = images(back=(0, 200, 0))
    parts.sprites[:] = pixel(RED, 51)
    image = composed(parts, show(box(2, 2, 4)))
    expected = [0.2 * 200, 0.2 * 40 + 0.8 * 200, 0.2 * 40]
    assert at(image, 4, 4) == pytest.approx(expected, abs=2)


def test_an_edge_of_zero_leaves_a_slot_empty() -> None:
    parts, full = images(RED, BLUE), box(1, 1, 4, shadow=0.4)
    empty = box(2, 2, 0, sink=0.1, shadow=1.0, foam=1.0)
    both = composed(parts, show(full, empty))
    assert torch.equal(both, composed(parts, show(full)))
    assert bool((composed(parts, show(empty)) == 255).all())


def test_the_shadow_lies_about_the_feet_only() -> None:
    parts = images(shade=(0.2, 0.0, 0.0))
    lit = composed(parts, show(box(2, 1, 4)))
    dark = composed(parts, show(box(2, 1, 4, shadow=0.5)))
    below = at(dark, 5.05, 4)
    assert below[0] < 200 and below[1] < below[0]  # towards the shade's colour
    assert at(dark, 2, 1.5) == at(dark, 7.5, 4) == list(WHITE)
    assert torch.equal(lit[..., : 5 * CELL, 2 * CELL : 6 * CELL], dark[..., : 5 * CELL, 128:384])
    # A narrow foot on the left has a small shadow on the left.
    parts.sprites[:] = 0
    narrow = composed(parts, show(box(2, 1, 4, shadow=0.5, foot=-0.3, half=0.1)))
    assert narrow[0, 1, 5 * CELL].argmin() == pytest.approx((2 + 0.2 * 4) * CELL, abs=8)
    assert (narrow < 250).sum() < 0.3 * (dark < 250).sum()


def test_a_sunken_subject_is_faint_and_soon_gone_below_the_surface() -> None:
    parts = images(BLACK)
    image = composed(parts, show(box(2, 0, 6, sink=0.3)))
    surface = 6 * 0.7
    assert at(image, surface - 0.3, 5) == list(BLACK)
    assert at(image, surface + 0.3, 5)[0] > 180
    assert at(image, 5.9, 5) == list(WHITE)
    assert at(composed(parts, show(box(2, 0, 6))), 5.9, 5) == list(BLACK)


def test_foam_rings_the_surface_in_the_light_of_the_scene() -> None:
    dark = (20, 30, 60)
    night = LIGHTS["night"].tint
    for light in (tint(), night):
        parts = images(back=dark, light=light)
        without = composed(parts, show(box(2, 1, 4, sink=0.1)))
        foam = composed(parts, show(box(2, 1, 4, sink=0.1, foam=0.8)))
        changed = ((foam - without).abs().amax(1)[0] > 4).nonzero() / CELL
        surface = 1 + 4 * 0.9
        wide = (0.5 * 1.12 + 0.03) * 4
        assert changed[:, 0].min() > surface - 0.2 * wide
        assert changed[:, 0].max() < surface + 0.4 * wide
        assert changed[:, 1].min() < 2 < 6 < changed[:, 1].max()
        white = torch.tensor(light).sum(1).clamp(0, 1) * 255
        brightest = foam[0].flatten(1).amax(1)
        assert bool((brightest <= white.clamp(min=200) + 1).all())
        assert brightest[2] > 60 + 0.5 * (white[2] - 60)


def test_night_darkens_and_cools_and_sunset_warms() -> None:
    seen = {}
    for name in ("day", "night", "sunset"):
        parts = images(GREY, light=LIGHTS[name].tint)
        seen[name] = at(composed(parts, show(box(2, 1, 4))), 3, 4)
    assert seen["day"] == list(GREY)
    assert seen["night"][0] < seen["night"][2] < 160
    assert seen["sunset"][0] > seen["sunset"][2]


def test_the_front_layer_covers_subjects_and_ground() -> None:
    parts = images()
    parts.fronts[:, 3 * CELL :] = pixel(BLUE)
    parts.fronts[:, 4 * CELL :] = pixel(BLUE, 51)
    image = composed(parts, show(box(2, 1, 4)))
    assert at(image, 2.5, 4) == list(RED) and at(image, 2.5, 1) == list(WHITE)
    assert at(image, 3.5, 4) == at(image, 3.5, 1) == list(BLUE)
    mixed = [0.2 * b + 0.8 * r for b, r in zip(BLUE, RED, strict=True)]
    assert at(image, 4.5, 4) == pytest.approx(mixed, abs=2)


def test_a_later_box_covers_an_earlier_one() -> None:
    parts, far, near = images(RED, BLUE), box(0, 0, 4), box(2, 1, 4)
    assert at(composed(parts, show(far, near)), 2.5, 3) == list(BLUE)
    assert at(composed(parts, show(far, near)), 0.5, 0.5) == list(RED)
    assert at(composed(parts, show(near, far, concepts=(1, 0))), 2.5, 3) == list(RED)


def random_parts(grounds: int, subjects: int, count: int) -> tuple[Images, Shown]:
    """Grounds, subjects and a batch with all that `compose` knows, at random."""
    generator = torch.Generator().manual_seed(1)

    def pixels(*shape: int) -> Tensor:
        rgba = torch.randint(0, 256, (*shape, 4), generator=generator, dtype=torch.uint8)
        rgba[..., :3] = torch.minimum(rgba[..., :3], rgba[..., 3:])
        return rgba.view(torch.int32)[..., 0]

    def some(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    def one_of(most: int, *shape: int) -> Tensor:
        return torch.randint(most, shape, generator=generator)

    lights = [LIGHTS[name].tint for name in ("day", "night", "sunset")]
    parts = Images(
        pixels(grounds, SIZE, SIZE),
        pixels(grounds, SIZE, SIZE),
        torch.tensor([lights[g % 3] for g in range(grounds)]),
        some(grounds, 3),
        pixels(subjects, LENGTH),
    )
    edges = torch.tensor([0, *EDGES])[one_of(5, count, MAX_SUBJECTS)]
    corner = (some(count, MAX_SUBJECTS, 2) * (17 - edges[..., None])).floor()
    others = some(count, MAX_SUBJECTS, 5) * torch.tensor([0.3, 0.5, 0.8, 0.2, 0.4])
    boxes = torch.cat([corner, edges[..., None], others + torch.tensor([0, 0, 0, 0, 0.05])], -1)
    paints = torch.where(some(count, MAX_SUBJECTS, 1) > 0.5, some(count, MAX_SUBJECTS, 3), -1.0)
    ground, concepts = one_of(grounds, count), one_of(subjects, count, MAX_SUBJECTS)
    return parts, Shown(ground, concepts, boxes, paints)


def test_a_batch_gives_what_its_images_give_alone_and_a_window_a_part_of_the_whole() -> None:
    parts, shown = random_parts(2, 3, 3)
    top, left = torch.tensor([0, 512, 320]), torch.tensor([256, 512, 64])
    together = compose(parts, shown, top, left, WINDOW)
    corner = torch.zeros(1, dtype=torch.long)
    for i in range(3):
        one = Shown(*(column[i : i + 1] for column in shown))
        whole = compose(parts, one, corner, corner)[0]
        part = whole[:, top[i] : top[i] + WINDOW, left[i] : left[i] + WINDOW]
        assert torch.allclose(together[i], part, atol=1e-5)
    assert float(together.min()) >= 0 and float(together.max()) <= 1


def test_paint_keeps_greys_and_changes_colours_with_their_shading() -> None:
    paint = torch.tensor([0.2, 0.4, 0.9])
    colours = torch.tensor(
        [[0.5, 0.5, 0.5], [0.95, 0.93, 0.96], [0.2, 0.1, 0.1], [0.8, 0.1, 0.1], [1.0, 0.7, 0.7]]
    )
    made = torch.stack(painted(tuple(colours.T), tuple(paint)), 1)  # type: ignore[arg-type]
    assert torch.allclose(made[:3], colours[:3], atol=0.01)
    for before, after in zip(colours[3:], made[3:], strict=True):
        assert after.argmax() == 2 and after.argmin() == 0, before
    assert made[4].sum() > made[3].sum()
    # A colour of medium lightness becomes the paint itself.
    pure = painted(tuple(torch.tensor([1.0, 0.0, 0.0])), tuple(paint))  # type: ignore[arg-type]
    assert torch.allclose(torch.stack(pure), paint)
    same = painted(tuple(colours.T), tuple(torch.full((3,), -1.0)))  # type: ignore[arg-type]
    assert torch.equal(torch.stack(same, 1), colours)


def test_each_subject_has_its_own_paint() -> None:
    blue = (0.1, 0.2, 0.9)
    shown = show(box(0, 0, 4), box(4, 0, 4), concepts=(0, 0), paints=[OWN, blue])
    image = composed(images(), shown)
    assert at(image, 2, 2) == list(RED)
    assert at(image, 2, 6)[2] > 150 > at(image, 2, 6)[0]


STAGES = (
    Stage(0.6, near=0.9, far=0.7, sink=0.1, shadow=0.3, foam=0.5),
    Stage(None, shadow=0.0),
    Stage(0.6, near=0.9, far=0.7, sink=0.1, shadow=0.3, foam=0.5),
)


def test_the_table_of_boxes_has_every_layout_from_far_to_near() -> None:
    boxes, subject = renderings._table(STAGES)
    assert boxes.shape == (3, len(LAYOUTS), PLACES, MAX_SUBJECTS, renderings.PARTS)
    assert torch.equal(boxes[0], boxes[2]) and not torch.equal(boxes[0], boxes[1])
    for g, k, place in torch.cartesian_prod(*map(torch.arange, boxes.shape[:3])).tolist():
        placed = arrange(STAGES[g], LAYOUTS[k], place)
        rows = [[a.left, a.top, a.edge, a.sink, a.shadow, a.foam] for a in placed]
        own = boxes[g, k, place]
        assert not own[len(placed) :].any()
        found = own[: len(placed)]
        assert sorted(found.tolist()) == sorted(torch.tensor(rows).view(-1, 6).tolist())
        assert bool(((found[:, 1] + found[:, 2]).diff() >= 0).all())
        for n in range(len(placed)):
            which = int(subject[g, k, place, n])
            if LAYOUTS[k].count == 2:
                assert found[n].tolist() == torch.tensor(rows[which]).tolist()
            else:
                assert which == 0


def test_a_batch_shows_each_subject_in_its_box() -> None:
    boxes, subject = renderings._table(STAGES)
    contacts = torch.tensor([[0.0, 0.5], [0.1, 0.3], [-0.2, 0.1]])
    none = torch.zeros(0)
    rendered = renderings.Rendered(images(), contacts, boxes, subject, none, none)
    above, below = (LAYOUTS.index(Layout(2, relation=name)) for name in ("above", "below"))
    three = LAYOUTS.index(Layout(3))
    paints = torch.tensor([[OWN, (0.1, 0.2, 0.3)]]).expand(3, -1, -1)
    concepts = torch.tensor([[2, 1], [2, 1], [0, 0]])
    shown = rendered.show(
        torch.tensor([0, 0, 1]),
        torch.tensor([above, below, three]),
        torch.tensor([1, 1, 3]),
        concepts,
        paints,
    )
    assert shown.boxes.shape == (3, MAX_SUBJECTS, len(BOX))
    # The upper box is the farther one; "A above B" has A in it, "A below B" has B.
    assert shown.concepts[:2, :2].tolist() == [[2, 1], [1, 2]]
    assert shown.boxes[0, 0, :2].tolist() == shown.boxes[1, 0, :2].tolist()
    assert shown.boxes[0, 0, 1] < shown.boxes[0, 1, 1]
    assert torch.equal(shown.boxes[..., 6:], contacts[shown.concepts])
    assert torch.allclose(shown.paints[0, :2], paints[0])
    assert torch.allclose(shown.paints[1, :2], paints[1].flip(0))
    assert (shown.boxes[2, :, 2] > 0).tolist() == [True, True, True, False]
    assert bool((shown.paints[2] == -1).all())
