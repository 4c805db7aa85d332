"""Turns what was compared into figures, and states the promised bounds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks.quality.comparing import Likeness, Seeds, Styled, percent
from benchmarks.quality.series import ROWS, SEEDS
from benchmarks.report import Figure

COUNTED: Final = 500
CLEARLY: Final = 0.75
"""Upper bound of Turbo's distance, as a share of the base's in as many steps."""
BETTER: Final = 0.95
"""Upper bound of the distance in n steps, as a share of that in n - 1."""
AS_NEAR: Final = 1.1
"""Upper bound of the distance of Chinese prompts, as a share of that of English ones."""


@dataclass(frozen=True, slots=True)
class Compared:
    """All comparisons with right images."""

    rows: Mapping[str, Likeness]
    """By title in ROWS."""
    seeds: Seeds
    styles: Mapping[str, Styled]
    psnr: Sequence[float]
    faults: Mapping[str, str]
    """What is wrong with each Turbo image of four steps, by text; "" for a clean one."""
    missing: Sequence[str]
    """Styles without an adapter file."""
    english: Likeness
    chinese: Likeness
    """Of the same descriptions and seeds in both languages."""


def share(name: str, measured: float, floor: float, note: str) -> Figure:
    """Returns a figure in percent with a floor."""
    return Figure(name, measured, "%", floor, at_most=False, note=note)


def figures(r: Compared) -> list[Figure]:
    """Returns the figures with their promised bounds."""
    faults = [fault for fault in r.faults.values() if fault]
    kinds = {fault: faults.count(fault) for fault in sorted(set(faults))}
    made = [
        Figure(
            "images looked at", len(r.faults), "", COUNTED, at_most=False, note="Turbo, 4 steps"
        ),
        share(
            "clean",
            percent([not fault for fault in r.faults.values()]),
            99.5,
            ", ".join(f"{count} {fault[:60]}" for fault, count in kinds.items()) or "no fault",
        ),
        *_steps(r.rows),
        _languages(r.english, r.chinese),
        share("seeds differ visibly", r.seeds.differ, 95, "pairs of ten seeds, four open prompts"),
        share("a seed means what it decides", r.seeds.decide, 80, "nearest of ten right images"),
    ]
    made += [share(f"style {style}", 0, 90, "its file is missing") for style in r.missing]
    for style, found in r.styles.items():
        made.append(share(f"{style}: nearer to the style", found.nearer, 90, "right images"))
        made.append(share(f"{style}: scene and subject kept", found.kept, 80, "nearest of all"))
    if r.psnr:
        note = f"{len(r.psnr)} held-out scenes at 1024 px, worst {min(r.psnr):.1f} dB"
        mean = statistics.fmean(r.psnr)
        made.append(Figure("VAE keeps a scene", mean, "dB", 28, at_most=False, note=note))
    return made


def _steps(rows: Mapping[str, Likeness]) -> list[Figure]:
    titles = [title for title, _, _ in ROWS[:4]]
    made = []
    for number, (fewer, more) in enumerate(pairwise(titles)):
        one, two = rows[fewer], rows[more]
        nearer = percent([b < a for a, b in zip(one.each, two.each, strict=True)])
        made.append(
            Figure(
                f"distance in {number + 2} steps against {number + 1}",
                two.distance / one.distance,
                "of it",
                BETTER,
                note=f"{two.distance:.4f} against {one.distance:.4f} RMS; {nearer:.0f} % nearer",
            )
        )
    turbo, base = rows["Turbo, 4 steps"], rows["base, 4 steps"]
    note = f"{turbo.distance:.4f} against {base.distance:.4f} RMS"
    ratio = turbo.distance / base.distance
    made.append(
        Figure("distance in 4 steps, Turbo against base", ratio, "of it", CLEARLY, note=note)
    )
    return made


def _languages(english: Likeness, chinese: Likeness) -> Figure:
    note = (
        f"{chinese.distance:.4f} against {english.distance:.4f} RMS, "
        f"{len(chinese.each)} same descriptions and seeds"
    )
    ratio = chinese.distance / english.distance if english.distance else 1.0
    return Figure("distance, Chinese against English", ratio, "of it", AS_NEAR, note=note)


def print_steps(rows: Mapping[str, Likeness]) -> None:
    """Prints the table of steps."""
    count = len(next(iter(rows.values())).each)
    table = Table(
        "generated with", "distance", "sharpness", title=f"Steps, the same {count} prompts"
    )
    for title, found in rows.items():
        table.add_row(title, f"{found.distance:.4f}", f"{found.sharpness:.2f}")
    Console().print(table)


def is_group(name: str, styles: Sequence[str]) -> bool:
    """Returns True for a series of four steps with Turbo and no style."""
    return name not in styles and name not in {title for title, _, _ in ROWS} | {SEEDS}
