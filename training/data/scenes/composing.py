"""Puts subjects into a scene: shadow, tint, the subject itself, then the front layer.

Written for batches on any torch device. Colours are blended in sRGB, as browsers do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from training.data.scenes.anchors import Anchor
from training.data.scenes.scene import Scene

COLUMNS = ("x", "y", "edge", "sink", "shadow", "foam", "turn")
"""Columns of `placements`; see `anchors.Anchor`."""

SEEN = 0.1
"""Least opacity of a pixel that counts as part of a subject's visible box."""

CONTACT = 0.14
"""Share of a subject's height above its base that decides how wide its shadow is."""


def batch_of(
    scenes: Sequence[Scene], placed: Sequence[Sequence[Anchor]]
) -> tuple[Tensor, Tensor, Tensor]:
    """Builds the inputs of `compose` besides pixels: placements, tint and shade, on the CPU.

    Args:
        scenes: B scenes.
        placed: Anchors of each; shorter lists are filled up with empty slots.
    """
    most = max(len(anchors) for anchors in placed)
    placements = torch.zeros(len(scenes), most, len(COLUMNS))
    for i, anchors in enumerate(placed):
        for n, anchor in enumerate(anchors):
            placements[i, n] = torch.tensor(anchor.columns())
    tint = torch.tensor([scene.tint for scene in scenes], dtype=torch.float32)
    shade = torch.tensor([scene.shade for scene in scenes], dtype=torch.float32) / 255
    return placements, tint, shade


def compose(
    back: Tensor,
    front: Tensor,
    subjects: Tensor,
    placements: Tensor,
    tint: Tensor,
    shade: Tensor,
) -> Tensor:
    """Images of scenes with their subjects, shape [B, H, W, 3], dtype uint8.

    Subjects are painted from the highest base to the lowest, so the near ones cover the far ones.

    Args:
        back: [B, H, W, 3] uint8, the scene behind the subjects.
        front: [B, H, W, 4] uint8, straight alpha, what stands before them.
        subjects: [B, N, h, w, 4] uint8, straight alpha, of any size; empty borders are ignored.
        placements: [B, N, 7] float32, see COLUMNS; fractions of the frame's edge, radians. An
            edge of 0 leaves a slot empty.
        tint: [B, 3, 4] float32, affine map on sRGB values 0-1 for the subjects.
        shade: [B, 3] float32, sRGB 0-1, colour of contact shadows.
    """
    size = back.shape[1]
    canvas = back.permute(0, 3, 1, 2).float() / 255
    centres = (torch.arange(size, device=back.device, dtype=torch.float32) + 0.5) / size
    across, down = centres[None, None, :], centres[None, :, None]
    order = placements[..., 1].argsort(dim=1)
    rows = torch.arange(len(back), device=back.device)
    foam = tint.sum(dim=2).clamp(0, 1)  # white in the scene's light
    for n in range(subjects.shape[1]):
        chosen = order[:, n]
        sprite = _premultiplied(subjects[rows, chosen], tint)
        spot = placements[rows, chosen]
        window = _window(spot, size)
        if window is None:
            continue
        rows_seen, columns_seen = window
        canvas[:, :, rows_seen, columns_seen] = _paste(
            canvas[:, :, rows_seen, columns_seen],
            sprite,
            spot,
            shade,
            foam,
            across[:, :, columns_seen],
            down[:, rows_seen],
            size,
        )
    veil = front.permute(0, 3, 1, 2).float() / 255
    canvas = canvas + veil[:, 3:] * (veil[:, :3] - canvas)
    return (canvas * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _window(spot: Tensor, size: int) -> tuple[slice, slice] | None:
    """Rows and columns of the frame that hold one subject of each image, with its shadow.

    Args:
        spot: [B, 7], see COLUMNS.
        size: Edge of the frame in px.

    Returns:
        None when no image shows this subject.
    """
    spot = spot[spot[:, 2] > 0]
    if not len(spot):
        return None
    x, y, edge = spot[:, 0], spot[:, 1], spot[:, 2]
    # A turned box reaches 0.21 edges further; a shadow and its blur 0.95 edges to each side.
    bounds = torch.stack(
        (
            (y - 1.25 * edge).amin(),
            (y + 0.25 * edge).amax(),
            (x - 0.95 * edge).amin(),
            (x + 0.95 * edge).amax(),
        )
    )
    top, bottom, left, right = (bounds * size).clamp(0, size).tolist()
    if top >= bottom or left >= right:
        return None
    return slice(int(top), math.ceil(bottom)), slice(int(left), math.ceil(right))


def _premultiplied(sprites: Tensor, tint: Tensor) -> Tensor:
    """[B, 4, h, w] float32, tinted and premultiplied, of [B, h, w, 4] uint8."""
    image = sprites.permute(0, 3, 1, 2).float() / 255
    alpha = image[:, 3:]
    colour = (
        torch.einsum("brc,bchw->brhw", tint[:, :, :3], image[:, :3]) + tint[:, :, 3, None, None]
    )
    return torch.cat((colour.clamp(0, 1) * alpha, alpha), 1)


def visible_box(alpha: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Left, top, right and bottom edge in px, each [B] float32, of an alpha [B, h, w] 0-1."""
    seen = alpha > SEEN
    found = []
    for axis in (1, 2):
        line = seen.any(dim=axis).float()
        length = line.shape[1]
        first = line.argmax(dim=1).float()
        last = length - line.flip(1).argmax(dim=1).float()
        found.append((first, last))
    (left, right), (top, bottom) = found
    return left, top, right, bottom


def _shrunk(sprite: Tensor, ratio: Tensor) -> Tensor:
    """The sprite averaged over squares where it will be reduced, against aliasing.

    Args:
        sprite: [B, 4, h, w].
        ratio: [B], px of the sprite per px of the frame.
    """
    kept = sprite
    for step in (2, 4, 8):
        needed = ratio >= step * 0.75
        if not bool(needed.any()):
            break
        small = functional.avg_pool2d(sprite, step, ceil_mode=True)
        coarse = functional.interpolate(
            small, size=sprite.shape[-2:], mode="bilinear", align_corners=False
        )
        kept = torch.where(needed[:, None, None, None], coarse, kept)
    return kept


def _contact(alpha: Tensor, left: Tensor, line: Tensor, tall: Tensor) -> tuple[Tensor, Tensor]:
    """Centre and half width in px, each [B], of the part of a subject just above a line.

    Args:
        alpha: [B, h, w], 0-1.
        left: [B], left edge of the visible box, returned where the line meets nothing.
        line: [B], the surface in px from the sprite's top.
        tall: [B], height of the visible box in px.
    """
    rows = torch.arange(alpha.shape[1], device=alpha.device) + 0.5
    band = (rows <= line[:, None]) & (rows > (line - CONTACT * tall)[:, None])
    profile = (alpha * band[:, :, None]).amax(dim=1)
    columns = torch.arange(alpha.shape[2], device=alpha.device) + 0.5
    weight = profile.sum(1)
    centre = (profile * columns).sum(1) / weight.clamp_min(1e-3)
    spread = (profile * (columns - centre[:, None]) ** 2).sum(1) / weight.clamp_min(1e-3)
    # A bar of half width a has the variance a**2 / 3.
    return torch.where(weight > 0, centre, left), (3 * spread).sqrt()


def _paste(
    canvas: Tensor,
    sprite: Tensor,
    spot: Tensor,
    shade: Tensor,
    foam_colour: Tensor,
    across: Tensor,
    down: Tensor,
    size: int,
) -> Tensor:
    """A part of the canvas, [B, 3, rows, columns], with one premultiplied sprite per image.

    `across` and `down` are the part's pixel centres as fractions of the frame of `size` px.
    """
    x, y, edge, sink, shadow, foam, turn = (value[:, None, None] for value in spot.unbind(1))
    left, top, right, bottom = visible_box(sprite[:, 3])
    tall = bottom - top
    # Sprite px per unit of the frame; an empty slot gets a scale that shows nothing.
    scale = torch.maximum(right - left, tall) / spot[:, 2].clamp_min(1e-6)
    sprite = _shrunk(sprite, scale / size)

    line = bottom - spot[:, 3] * scale * spot[:, 2]
    middle, half = _contact(sprite[:, 3], left, line, tall)
    present = (edge > 0).float()
    surface = y - sink * edge
    foot = x + ((middle - (left + right) / 2) / scale)[:, None, None]
    wide = (half / scale)[:, None, None] * 1.12 + 0.03 * edge
    flat = (0.2 * wide).clamp_min(1e-4)
    offset = ((across - foot) / wide.clamp_min(1e-4)) ** 2
    radius = offset + ((down - surface + 0.2 * flat) / flat) ** 2
    dark = (shadow * present * torch.exp(-1.3 * radius * radius.sqrt()))[:, None]
    canvas = canvas + dark * (shade[:, :, None, None] - canvas)

    pivot_x, pivot_y = x, y - (tall / scale)[:, None, None] / 2
    dx, dy = across - pivot_x, down - pivot_y
    u = dx * turn.cos() + dy * turn.sin()
    v = dy * turn.cos() - dx * turn.sin()
    per = scale[:, None, None]
    column = u * per + ((left + right) / 2)[:, None, None]
    row = v * per + ((top + bottom) / 2)[:, None, None]
    height, width = sprite.shape[-2:]
    grid = torch.stack((column / width * 2 - 1, row / height * 2 - 1), -1)
    layer = functional.grid_sample(sprite, grid, align_corners=False)

    # Below the surface a subject shows faintly and is soon gone; the line ripples a little.
    depth = down - surface - 0.05 * sink * edge * torch.sin(across * 75)
    under = 0.3 * torch.exp(-depth.clamp_min(0) / 0.02) * (depth < 0.06)
    shown = torch.where((sink > 0) & (depth > 0), under, torch.ones_like(under)) * present
    layer = layer * shown[:, None]
    canvas = layer[:, :3] + canvas * (1 - layer[:, 3:])

    spray = ((offset + ((down - surface) / flat) ** 2).sqrt() - 1) / 0.16
    ring = foam * present * torch.exp(-(spray**2)) * (down > surface - 0.3 * flat)
    return canvas + 0.8 * ring[:, None] * (foam_colour[:, :, None, None] - canvas)
