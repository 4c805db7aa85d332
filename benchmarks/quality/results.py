"""Turns scores into figures, and compares these with the promised bounds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.quality import scoring
from benchmarks.quality.references import PLAIN
from benchmarks.quality.scoring import ROWS, Images, ImageScore, Scorer, Scores, Series
from benchmarks.report import Figure
from training.data.concepts import Concept

IN_A_ROW = 50
CLEARLY = 0.75
"""Upper bound of Turbo's distance to the references, as a share of the base's in as many steps."""


@dataclass(frozen=True)
class Results:
    """All measurements."""

    image_scores: dict[str, list[ImageScore | None]]
    """Scores of the images, by series."""
    psnr: list[float]
    black: int
    errors: list[str]
    generated: int
    """Number of Turbo images of four steps, including styled ones."""
    centred: int
    ten: int
    missing: list[str]
    """Styles without an adapter file."""
    scores: dict[str, Scores] = field(init=False)

    def __post_init__(self) -> None:
        scores = {name: Scores.of(image_scores) for name, image_scores in self.image_scores.items()}
        object.__setattr__(self, "scores", scores)


def evaluate(
    series: Mapping[str, Series],
    images: Images,
    scorer: Scorer,
    *,
    psnr: list[float],
    styles: Sequence[str],
    advance: Callable[[], None],
) -> Results:
    """Scores every series; `styles` are all that should exist."""
    image_scores = {}
    for name, rows in series.items():
        image_scores[name] = scorer.score(rows, images, name if name in styles else PLAIN)
        advance()
    turbo = [d for o, d in images.items() if o.variant == "turbo" and o.steps == scoring.STEPS]
    return Results(
        image_scores=image_scores,
        psnr=psnr,
        black=scoring.black(turbo),
        errors=[d.error for d in turbo if d.error],
        generated=len(turbo),
        centred=scoring.centred(series["seeds"], images),
        ten=len(series["seeds"]),
        missing=[style for style in styles if style not in series],
    )


def figures(r: Results) -> list[Figure]:
    """Returns the figures with their promised bounds."""
    english, chinese, base = r.scores["english"], r.scores["chinese"], r.scores["base 20"]
    turbo4, base4 = r.scores["Turbo, 4 steps"], r.scores["base, 4 steps"]
    count = len(r.image_scores["english"])
    made = [
        _share("subject recognised, first of 543", english.top1, 85, f"{count} English prompts"),
        _share("subject among the nearest five", english.top5, 95, "RMS at 64 px"),
        _share("background colour right", english.colour, 97, "median of the border, 14 colours"),
        Figure(
            "Chinese behind English",
            english.top1 - chinese.top1,
            "points",
            5,
            note=f"first of 543: {chinese.top1:.1f} % against {english.top1:.1f} %, same seeds",
        ),
        Figure(
            "Turbo in 4 steps behind the base in 20",
            base.top1 - english.top1,
            "points",
            3,
            note=f"first of 543: stock diffusers without Turbo {base.top1:.1f} %, same noise",
        ),
        Figure(
            "distance in 4 steps, Turbo against base",
            turbo4.distance / base4.distance,
            "of the base's",
            CLEARLY,
            note=f"{turbo4.distance:.4f} against {base4.distance:.4f} RMS; recognised "
            f"{turbo4.top1:.0f} % against {base4.top1:.0f} %",
        ),
        Figure(
            "VAE keeps a rendering",
            statistics.fmean(r.psnr),
            "dB",
            28,
            at_most=False,
            note=f"{len(r.psnr)} held-out renderings at 1024 px, worst {min(r.psnr):.1f} dB",
        ),
    ]
    made += [_share(f"style {style}", 0, 90, "its file is missing") for style in r.missing]
    for style in sorted(r.image_scores.keys() - _PLAIN_SERIES):
        scores, note = r.scores[style], f"{len(r.image_scores[style])} prompts"
        made.append(_share(f"{style}: nearer to the style", scores.styled, 90, note))
        made.append(_share(f"{style}: subject kept", scores.top1, 80, f"{note}, first of 543"))
    return [
        *made,
        Figure("images counted", r.generated, "", IN_A_ROW, at_most=False, note="Turbo, 4 steps"),
        Figure("black images", r.black, "", 0, note="of those"),
        Figure("errors", len(r.errors), "", 0, note=r.errors[0] if r.errors else "of those"),
        Figure(
            "subject in the middle",
            r.centred,
            f"of {r.ten}",
            9,
            at_most=False,
            note="one prompt, its box within 5 % of the edge",
        ),
    ]


_PLAIN_SERIES = {"english", "chinese", "seeds", "base 20", *(title for title, _, _ in ROWS)}


def _share(name: str, measured: float, floor: float, note: str) -> Figure:
    return Figure(name, measured, "%", floor, at_most=False, note=note)


def print_steps(r: Results) -> None:
    """Prints the table of steps."""
    count = len(r.image_scores[ROWS[0][0]])
    table = Table(
        *("generated with", "first", "first five", "background", "distance", "sharpness"),
        title=f"Steps, the same {count} prompts",
    )
    for title, _, _ in ROWS:
        s = r.scores[title]
        shares = [f"{share:.0f} %" for share in (s.top1, s.top5, s.colour)]
        table.add_row(title, *shares, f"{s.distance:.4f}", f"{s.sharpness:.2f}")
    Console().print(table)


def everything(
    r: Results, series: Mapping[str, Series], images: Images, concepts: Sequence[Concept]
) -> dict[str, Any]:
    """Returns all numbers and prompts, for JSON."""

    def seconds(name: str) -> float:
        return statistics.median(images[spec].seconds for _, spec in series[name])

    prompts = []
    for (prompt, _), en, zh in zip(
        series["english"], r.image_scores["english"], r.image_scores["chinese"], strict=True
    ):
        facts = {"concept": concepts[prompt.concept].code, "seed": prompt.seed}
        words = {"english": prompt.english, "chinese": prompt.chinese}
        ranks = {"rank_english": en and en.rank, "rank_chinese": zh and zh.rank}
        prompts.append(facts | words | ranks)
    return {
        "figures": [asdict(f) | {"holds": f.holds} for f in figures(r)],
        "scores": {name: _rounded(asdict(s)) for name, s in r.scores.items()},
        "seconds": _rounded({name: seconds(name) for name in series}),
        "psnr": [round(value, 2) for value in r.psnr],
        "prompts": prompts,
    }


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}
