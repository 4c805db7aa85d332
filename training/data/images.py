"""Makes the packs: every concept in every set, drawn once at one size.

Owns the files in the cache folder: `svg.zip` (the SVGs of the table, so that another machine can
draw them without a network) and `SET-SIZE.zip` (see render.Pack). What is there is kept.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

from training.data import fetch, icons
from training.data.concepts import SET_NAMES, Concept
from training.data.render import FIXED_TIME, Pack, render


def svg_name(set_name: str, code: str) -> str:
    """The member of svg.zip that holds a concept's drawing in a set."""
    return f"{set_name}/{code}.svg"


def collect_svgs(concepts: list[Concept], cache: Path) -> Path:
    """svg.zip with the concepts' SVGs in all sets; written anew where one is missing.

    Fetches packages only when it has to write. Raises fetch.FetchError or icons.IconError.
    """
    path = cache / "svg.zip"
    wanted = {svg_name(name, c.code) for name in SET_NAMES for c in concepts}
    if path.exists():
        with zipfile.ZipFile(path) as archive:
            if wanted <= set(archive.namelist()):
                return path
    sets = icons.open_sets(fetch.fetch_all(cache))
    partial = path.with_suffix(".partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in SET_NAMES:
            for concept in concepts:
                member = zipfile.ZipInfo(svg_name(name, concept.code), FIXED_TIME)
                member.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(member, sets[name].svg(concept.icons[name]))
    partial.replace(path)
    return path


def pack_path(cache: Path, set_name: str, size: int) -> Path:
    """Where a set's pack of `size` px images lies."""
    return cache / f"{set_name}-{size}.zip"


def draw_set(
    concepts: list[Concept],
    set_name: str,
    size: int,
    cache: Path,
    advance: Callable[[], None],
) -> Path:
    """The set's pack with all concepts, drawing those that it lacks; `advance` after each.

    Images are drawn into `.partial` and the file is renamed when complete, so an interrupted
    run goes on where it stopped and a pack under its own name is whole.
    """
    done = pack_path(cache, set_name, size)
    partial = done.with_suffix(".partial")
    if done.exists():
        with Pack(done, read_only=True) as pack:
            complete = all(c.code in pack for c in concepts)
        if complete:
            for _ in concepts:
                advance()
            return done
        done.replace(partial)
    with zipfile.ZipFile(collect_svgs(concepts, cache)) as svgs:
        for start in range(0, len(concepts), 25):
            # Closing writes the zip's directory: at most 25 images are lost when killed.
            with Pack(partial) as pack:
                for concept in concepts[start : start + 25]:
                    if concept.code not in pack:
                        svg = svgs.read(svg_name(set_name, concept.code)).decode()
                        pack.add(concept.code, render(svg, size))
                    advance()
    partial.replace(done)
    return done
