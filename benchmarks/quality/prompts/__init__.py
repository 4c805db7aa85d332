"""The fixed prompts of the quality benchmark: `NAME.jsonl` per group, made once by `write`.

A line holds the text, its language, the seed, and what the image has to show; nothing where any
clean image will do. Lines that stand for the same description in two languages have one seed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from training.data import concepts
from training.data.concepts import Concept
from training.data.prose.description import Description, Subject

FOLDER = Path(__file__).parent
GROUPS: Final = (
    *("bare", "prose", "old", "scenes", "two", "counts", "relations", "paints", "sizes"),
    *("lights", "synonyms", "unknown", "nonsense", "typos", "mixed", "own"),
)
"""All groups. "own" has the prompts of the contact sheet."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One image to request.

    Attributes:
        text: What is typed.
        language: "en" or "zh"; that of most words.
        seed: The image's seed.
        shown: What the image has to show, or None.
    """

    text: str
    language: str
    seed: int
    shown: Description | None = None


@cache
def _concepts() -> dict[str, Concept]:
    return {concept.english: concept for concept in concepts.read()}


def as_json(prompt: Prompt) -> dict[str, Any]:
    """Returns a prompt as plain values without those that are None."""
    made: dict[str, Any] = {"text": prompt.text, "language": prompt.language, "seed": prompt.seed}
    shown = prompt.shown
    if shown is None:
        return made
    subjects = [
        {"concept": s.concept.english, "count": s.count, "size": s.size, "paint": s.paint}
        for s in shown.subjects
    ]
    facts = {
        **{"subjects": [_stated(subject) for subject in subjects], "relation": shown.relation},
        **{"side": shown.side, "setting": shown.setting, "light": shown.light},
        "ground": shown.ground,
    }
    return made | {"shown": _stated(facts)}


def _stated(facts: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in facts.items() if value is not None}


def from_json(line: dict[str, Any]) -> Prompt:
    """Inverts `as_json`.

    Raises:
        KeyError: A concept is not in the table.
        DescriptionError: The description contradicts itself.
    """
    facts = line.get("shown")
    if facts is None:
        return Prompt(line["text"], line["language"], line["seed"])
    subjects = tuple(
        Subject(**(subject | {"concept": _concepts()[subject["concept"]]}))
        for subject in facts["subjects"]
    )
    shown = Description(**(facts | {"subjects": subjects}))
    return Prompt(line["text"], line["language"], line["seed"], shown)


def read(group: str, folder: Path = FOLDER) -> list[Prompt]:
    """Returns the prompts of a group; both languages alternate, so a prefix has both."""
    lines = (folder / f"{group}.jsonl").read_text(encoding="utf-8").splitlines()
    return [from_json(json.loads(line)) for line in lines]


def save(group: str, prompts: list[Prompt], folder: Path = FOLDER) -> None:
    """Writes a group."""
    lines = [json.dumps(as_json(prompt), ensure_ascii=False) for prompt in prompts]
    (folder / f"{group}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
