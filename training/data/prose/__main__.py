"""Prints descriptions and captions: `python -m training.data.prose --count 40 --language zh`."""

from __future__ import annotations

import argparse
import random
import sys

from training.data.captions import COLOURS, LANGUAGES
from training.data.prose import lexicon
from training.data.prose.description import Description
from training.data.prose.drawing import draw
from training.data.prose.writing import write


def summary(description: Description) -> str:
    """Returns a description in short: "2 red fox · small · snow · night"."""
    subjects = f" {description.relation or 'and'} ".join(
        " ".join(
            part
            for part in (
                str(subject.count) if subject.count > 1 else "",
                subject.size or "",
                subject.paint or "",
                subject.concept.english,
            )
            if part
        )
        for subject in description.subjects
    )
    ground = None if description.ground is None else f"on {COLOURS[description.ground].english[0]}"
    parts = (subjects, description.side, description.setting, description.light, ground)
    return " · ".join(part for part in parts if part) or "nothing"


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m training.data.prose", description=__doc__)
    parser.add_argument("--count", type=int, default=40, help="number of captions")
    parser.add_argument("--language", choices=LANGUAGES, default=LANGUAGES[0])
    parser.add_argument("--held-out", action="store_true", help="templates held out of training")
    parser.add_argument("--held-out-words", action="store_true", help="words held out, too")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    rng, entries = random.Random(options.seed), lexicon.read()
    for _ in range(options.count):
        description = draw(rng, entries)
        text = write(
            description,
            options.language,
            rng,
            held_out=options.held_out,
            held_out_words=options.held_out_words,
        )
        print(f"{summary(description):<44}  {text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
