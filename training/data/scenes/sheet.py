"""A contact sheet: every setting in each of its lights, with a few subjects composed in."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image, ImageDraw

from training.composition import Shown, compose
from training.data import concepts, fetch, images
from training.data.scenes.anchors import LAYOUTS, PLACES, Layout
from training.data.scenes.scene import SETTINGS
from training.grounds import Kind, kinds
from training.renderings import Rendered, render

AFLOAT = {"sea": "sailboat", "lake": "sailboat", "river": "duck", "space": "rocket"}
"""Subjects that suit a setting better than one taken in turn."""
TURNS = ("fox", "cat", "dog", "house", "red apple", "rocket", "sailboat")
SUBJECTS = tuple(dict.fromkeys((*TURNS, *AFLOAT.values())))
SHOWN = (Layout(1, "large"), Layout(1), Layout(1, "small"), Layout(2, relation="next to"))
"""Layouts that the images take in turn."""


def rendered_for(chosen: list[Kind], seed: int, cache: Path) -> Rendered:
    """Renders the chosen grounds and SUBJECTS.

    Raises:
        fetch.FetchError: svg.zip is incomplete, and a package cannot be fetched.
    """
    table = concepts.read()
    images.collect_svgs(table, cache)
    known = {concept.english: concept for concept in table}
    subjects = [known[name] for name in SUBJECTS]
    cpu = torch.device("cpu")
    return render(cache, "fluent", subjects, variants=(seed,), device=cpu, chosen=chosen)


def shown(rendered: Rendered, kind: Kind, turn: int) -> Shown:
    """Returns what one image shows: its ground, by index `turn`, with one or two subjects."""
    first = AFLOAT.get(kind.setting, TURNS[turn % len(TURNS)])
    second = TURNS[(turn + 1) % len(TURNS)]
    layout = LAYOUTS.index(SHOWN[turn % len(SHOWN)])
    return rendered.show(
        torch.tensor([turn]),
        torch.tensor([layout]),
        torch.tensor([turn // len(SHOWN) % PLACES]),
        torch.tensor([[SUBJECTS.index(first), SUBJECTS.index(second)]]),
        torch.full((1, 2, 3), -1.0),
    )


def sheet(
    seed: int, edge: int, columns: int, only: list[str] | None = None, cache: Path = fetch.CACHE
) -> Image.Image:
    """The contact sheet, `columns` images of `edge` px to a row.

    Args:
        seed: Of every scene.
        edge: Edge of one image in px.
        columns: Images to a row.
        only: Names of settings; all where None.
        cache: Folder of svg.zip.

    Raises:
        fetch.FetchError: svg.zip is incomplete, and a package cannot be fetched.
    """
    chosen = [kind for kind in kinds() if kind.setting in (only or SETTINGS)]
    rendered = rendered_for(chosen, seed, cache)
    rows = -(-len(chosen) // columns)
    page = Image.new("RGB", (columns * (edge + 8), rows * (edge + 28)), "white")
    pen = ImageDraw.Draw(page)
    corner = torch.zeros(1, dtype=torch.long)
    for i, kind in enumerate(chosen):
        rgb = compose(rendered.images, shown(rendered, kind, i), corner, corner)[0]
        pixels = (rgb * 255).round().byte().permute(1, 2, 0).numpy()
        spot = (i % columns * (edge + 8) + 4, i // columns * (edge + 28) + 4)
        image = Image.fromarray(pixels).resize((edge, edge), Image.Resampling.LANCZOS)
        page.paste(image, spot)
        pen.text((spot[0] + 2, spot[1] + edge + 4), f"{kind.setting}, {kind.light}", fill="dimgray")
    return page
