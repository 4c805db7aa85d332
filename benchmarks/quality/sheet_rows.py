"""Selects the images of the contact sheet: always the first of a series, never hand-picked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.quality.prompts import Prompt
from benchmarks.quality.references import PLAIN, References
from benchmarks.quality.scoring import ROWS, STEPS, Images, Series
from benchmarks.quality.sheet import COLUMNS, Cell, Row, chinese_font


def build(
    series: Mapping[str, Series],
    images: Images,
    references: References,
    styles: Mapping[str, str],
) -> list[Row]:
    """Returns the rows of the sheet; `styles` maps names to titles."""
    can_write_chinese = chinese_font() is not None

    def english(prompt: Prompt) -> str:
        return prompt.english

    def chinese(prompt: Prompt) -> str:
        return prompt.chinese if can_write_chinese else f"zh: {prompt.english}"

    def first(name: str) -> Series:
        return series[name][:COLUMNS]

    made = [
        Row(
            f"English prompts, {STEPS} steps with Turbo",
            [Cell(images[spec].image, english(p)) for p, spec in first("english")],
        ),
        Row(
            "The same in Chinese",
            [Cell(images[spec].image, chinese(p)) for p, spec in first("chinese")],
        ),
        *(
            Row(
                f'Style "{title}", same prompts and seeds',
                [Cell(images[spec].image, english(p)) for p, spec in first(name)],
            )
            for name, title in styles.items()
        ),
    ]
    if cells := _steps(series, images, references):
        made.append(Row(f'"{series["english"][0][0].english}", step by step', cells))
    seeds = [Cell(images[spec].image, f"seed {p.seed}") for p, spec in first("seeds")]
    made.append(Row(f'"{series["seeds"][0][0].english}", seed by seed', seeds))
    return made


def _steps(series: Mapping[str, Series], images: Images, references: References) -> Sequence[Cell]:
    """Returns the first prompt in every number of steps, and the rendering it should resemble."""
    columns = [(title, series[title]) for title, _, _ in ROWS]
    columns.append(("base, 20 steps (stock diffusers)", series["base 20"]))
    if not all(found for _, found in columns):
        return []
    prompt = columns[0][1][0][0]
    right = references.one(PLAIN, prompt.concept, prompt.colour)
    rendering = right.mul(255).round().byte().cpu()
    return [
        *(Cell(images[found[0][1]].image, title) for title, found in columns),
        Cell(rendering, "the rendering itself"),
    ]
