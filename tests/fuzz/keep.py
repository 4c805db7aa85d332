"""Rebuilds the corpus from itself and from the findings: `python -m tests.fuzz.keep`.

Keeps the small seeds of each target, and the smallest inputs that together cover every transition
between two lines of the code under test that any input covers.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from types import FrameType
from typing import Any

from tests.fuzz.__main__ import WORK
from tests.fuzz.targets import CORPUS, TARGETS, Target

WATCHED = (
    "/wuliart_lora/",
    "/wuliart_contract/recipe.py",
    "/wuliart_client/_recipe.py",
    "/lora_manager/",
    "/inference_server/",
)

SMALL = 2048
"""Bytes. Seeds up to this size are kept even if they cover no further lines."""

Step = tuple[str, int, int]


def steps(target: Target, data: bytes) -> set[Step]:
    """Returns the transitions between lines that an input covers."""
    taken: set[Step] = set()

    def enter(frame: FrameType, event: str, argument: Any) -> Any:
        path = frame.f_code.co_filename
        if not any(part in path for part in WATCHED):
            return None
        last = 0

        def line(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal last
            taken.add((path, last, frame.f_lineno))
            last = frame.f_lineno
            return line

        return line

    sys.settrace(enter)
    try:
        target.run(data)
    finally:
        sys.settrace(None)
    return taken


def main() -> None:
    """Rewrites tests/fuzz/corpus."""
    logging.disable()
    for name, target in TARGETS.items():
        folder = CORPUS / name
        folder.mkdir(parents=True, exist_ok=True)
        places = [
            path for place in (folder, WORK / name) if place.exists() for path in place.iterdir()
        ]
        inputs = {path.read_bytes() for path in places} | set(target.seeds().values())
        covered: set[Step] = set()
        kept = {seed: seed_name for seed_name, seed in target.seeds().items() if len(seed) <= SMALL}
        for data in kept:
            covered |= steps(target, data)
        for data in sorted(inputs, key=lambda data: (len(data), data)):
            if len(data) <= target.most_bytes and not (new := steps(target, data)) <= covered:
                covered |= new
                kept[data] = hashlib.sha256(data).hexdigest()[:16]
        for path in folder.iterdir():
            path.unlink()
        for data, known_as in kept.items():
            (folder / known_as).write_bytes(data)
        print(f"{name}: {len(kept)} of {len(inputs)}, {sum(map(len, kept)):,} bytes")


if __name__ == "__main__":
    main()
