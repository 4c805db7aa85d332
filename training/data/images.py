"""Renders packs: every concept of a set at one size.

The cache folder holds `svg.zip`, with all SVGs of the table, so that another machine can render
them without a network, and packs named `SET-SIZE.zip` (`render.Pack`). Existing files are reused.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

from training.data import fetch, icons
from training.data.concepts import SET_NAMES, Concept
from training.data.render import FIXED_TIME, Pack, render


def svg_name(set_name: str, code: str) -> str:
    """Returns the member of svg.zip with a concept's SVG in a set."""
    return f"{set_name}/{code}.svg"


def collect_svgs(concepts: list[Concept], cache: Path) -> Path:
    """Returns svg.zip with the concepts' SVGs in all sets; rewrites it if any is missing.

    Packages are fetched only if the file has to be written.

    Raises:
        fetch.FetchError: A package cannot be fetched.
        icons.IconError: A set lacks an icon.
    """
    path = cache / "svg.zip"
    members = {svg_name(name, c.code) for name in SET_NAMES for c in concepts}
    if path.exists():
        with zipfile.ZipFile(path) as archive:
            if members <= set(archive.namelist()):
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
    """Returns the path of a set's pack of `size` px images."""
    return cache / f"{set_name}-{size}.zip"


def render_set(
    concepts: list[Concept],
    set_name: str,
    size: int,
    *,
    cache: Path,
    advance: Callable[[], None],
) -> Path:
    """Returns the set's pack with all concepts, rendering missing ones.

    Images are added to a `.partial` file, which is renamed when complete. So an interrupted run
    resumes, and a pack under its final name is complete.

    Args:
        concepts: Concepts that the pack must hold.
        set_name: The set.
        size: Edge of the images in px.
        cache: Folder of the packs.
        advance: Called after each concept.
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
            # Closing writes the zip's directory, so a kill loses at most 25 images.
            with Pack(partial) as pack:
                for concept in concepts[start : start + 25]:
                    if concept.code not in pack:
                        svg = svgs.read(svg_name(set_name, concept.code)).decode()
                        pack.add(concept.code, render(svg, size))
                    advance()
    partial.replace(done)
    return done
