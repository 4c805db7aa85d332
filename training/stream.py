"""Endless batches of captions with what their images show, written by parallel processes.

All captions of a batch have the same length in tokens, so that nothing is padded.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training import trained
from training.choices import OPTIONS
from training.data.prose import drawing, lexicon, writing
from training.data.prose.description import Description
from training.data.prose.lexicon import Entry
from training.data.prose.paints import PAINTS
from training.data.scenes import LAYOUTS, SETTINGS, Layout
from training.grounds import Kind, kinds
from training.network import TEXT_TOKENS
from training.text_encoder import tokenize
from training.tokenizer import TEMPLATE_TOKENS

LANGUAGES: Final = ("en", "zh")
CHUNK: Final = 2048
"""Captions that a process writes at a time."""
SCENERY: Final = (
    *(("meadow", "day"), ("mountain", "day"), ("beach", "day"), ("forest", "day")),
    *(("sea", "sunset"), ("snow", "day"), ("night sky", "night"), ("city", "day")),
)
"""Settings among which the noise decides where the words name nothing at all."""
PLAIN_OPTIONS: Final = 3
"""Plain backgrounds among the OPTIONS of a subject without a setting."""
BRIGHT: Final = (0, 5, 7, 8, 11, 13, 4)
"""Plain backgrounds that suit any subject, by index in `captions.COLOURS`."""

COLUMNS: Final = ("first", "second", "layout", "paint", "paint2")
"""Columns of a row before the OPTIONS kinds of ground."""


class Coder:
    """Turns descriptions into rows of numbers.

    Args:
        entries: The lexicon; subjects are numbered by its order.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._kinds = {kind: index for index, kind in enumerate(kinds())}
        self._layouts = {layout: index for index, layout in enumerate(LAYOUTS)}
        self._paints = {name: index for index, name in enumerate(PAINTS)}
        self._entries = {entry.concept.code: (n, entry) for n, entry in enumerate(entries)}

    def row(self, description: Description) -> tuple[int, ...]:
        """Returns COLUMNS, then OPTIONS indices of `grounds.kinds`; -1 for no paint."""
        subjects = description.subjects
        known = [self._entries[subject.concept.code][0] for subject in subjects]
        paints = [self._paints[s.paint] if s.paint else -1 for s in subjects]
        if not subjects:
            layout = Layout(0)
        elif len(subjects) == 2:
            layout = Layout(2, relation=description.relation)
        else:
            one = subjects[0]
            layout = Layout(one.count, one.size, description.side)
        first, second = (known * 2)[:2] if known else (0, 0)
        paint, paint2 = (paints * 2)[:2] if paints else (-1, -1)
        grounds = self._options(description)
        return (
            *(first, second, self._layouts[layout], paint, paint2),
            *(grounds[n % len(grounds)] for n in range(OPTIONS)),
        )

    def _options(self, description: Description) -> list[int]:
        if description.ground is not None:
            return [self._kinds[Kind(colour=description.ground)]]
        if description.setting is not None:
            return [self._kind(description.setting, description.light)]
        if not description.subjects:
            stated = description.light
            fitting = [(s, light) for s, light in SCENERY if stated in (None, *SETTINGS[s].lights)]
            return [self._kind(setting, stated or light) for setting, light in fitting]
        number, entry = self._entries[description.subjects[0].concept.code]
        settings: Sequence[str] = entry.settings
        if description.light is not None:
            with_light = [s for s in settings if description.light in SETTINGS[s].lights]
            settings = with_light or ("meadow", "sea", "city", "mountain")
            return [self._kind(setting, description.light) for setting in settings]
        scenes = [self._kind(s, None) for s in settings]
        scenes = (scenes * OPTIONS)[: OPTIONS - PLAIN_OPTIONS]
        plain = [BRIGHT[(number + step) % len(BRIGHT)] for step in (0, 2, 4)]
        return scenes + [self._kinds[Kind(colour=index)] for index in plain]

    def _kind(self, setting: str, light: str | None) -> int:
        """The ground of a setting; in its first light, which is day where it has one, if open."""
        lights = SETTINGS[setting].lights
        return self._kinds[Kind(setting, light if light in lights else next(iter(lights)))]


class Batch(NamedTuple):
    """Captions of one length."""

    ids: Tensor
    """Token ids [B, 34 + length], including the template's prefix."""
    rows: Tensor
    """[B, COLUMNS and OPTIONS], as `Coder.row` returns them."""


@dataclass(frozen=True, slots=True)
class Source:
    """What a process needs to write captions."""

    tokenizer: Path
    concepts: int | None = None
    trigger: tuple[str, ...] = ()


Written = dict[int, tuple[NDArray[np.int32], NDArray[np.int32]]]
"""Ids and rows by length."""

_state: dict[Source, tuple[object, list[Entry], Coder]] = {}


def write_chunk(source: Source, seed: int, count: int = CHUNK) -> Written:
    """Writes `count` captions; those over TEXT_TOKENS tokens are left out."""
    if source not in _state:
        entries = lexicon.read()[: source.concepts]
        _state[source] = trained.load_tokenizer(source.tokenizer), entries, Coder(entries)
    tokenizer, entries, coder = _state[source]
    rng = random.Random(seed)
    texts, rows = [], []
    for _ in range(count):
        description = drawing.draw(rng, entries)
        language = rng.choice(LANGUAGES)
        text = writing.write(description, language, rng)
        if source.trigger and rng.random() < 0.5:
            trigger = source.trigger[LANGUAGES.index(language)]
            text += f", {trigger}" if language == "en" else f"，{trigger}"
        texts.append(text)
        rows.append(coder.row(description))
    groups: dict[int, tuple[list[list[int]], list[tuple[int, ...]]]] = {}
    for ids, row in zip(tokenize(tokenizer, texts), rows, strict=True):  # type: ignore[arg-type]
        if len(ids) <= TEMPLATE_TOKENS + TEXT_TOKENS:
            own = groups.setdefault(len(ids), ([], []))
            own[0].append(ids)
            own[1].append(row)
    return {
        length: (np.array(ids, np.int32), np.array(own, np.int32))
        for length, (ids, own) in groups.items()
    }


class Stream:
    """Batches of `count` captions, half of them Chinese.

    Args:
        source: What captions are written from.
        count: Captions in a batch.
        seed: Seed of the captions.
        device: Device of the batches.
        workers: Processes that write.
    """

    def __init__(
        self, source: Source, count: int, *, seed: int, device: torch.device, workers: int
    ) -> None:
        self._source, self._count, self._device = source, count, device
        self._seeds = iter(range(seed * 10_000_000, (seed + 1) * 10_000_000))
        self._pool = ProcessPoolExecutor(workers)
        self._written: list[Future[Written]] = [self._submit() for _ in range(2 * workers)]
        self._kept: dict[int, list[tuple[NDArray[np.int32], NDArray[np.int32]]]] = {}
        self._batches = self._endless()

    def __call__(self) -> Batch:
        """Returns the next batch."""
        return next(self._batches)

    def close(self) -> None:
        """Ends the processes."""
        self._pool.shutdown(cancel_futures=True)

    def _submit(self) -> Future[Written]:
        return self._pool.submit(write_chunk, self._source, next(self._seeds))

    def _endless(self) -> Iterator[Batch]:
        while True:
            written = self._written.pop(0).result()
            self._written.append(self._submit())
            ready = []
            for length, part in written.items():
                kept = self._kept.setdefault(length, [])
                kept.append(part)
                if sum(len(ids) for ids, _ in kept) >= self._count:
                    ids, rows = (np.concatenate(column) for column in zip(*kept, strict=True))
                    whole = len(ids) // self._count * self._count
                    self._kept[length] = [(ids[whole:], rows[whole:])]
                    for start in range(0, whole, self._count):
                        part = slice(start, start + self._count)
                        ready.append((ids[part], rows[part]))
            random.shuffle(ready)
            for ids, rows in ready:
                yield Batch(
                    torch.from_numpy(ids).to(self._device, torch.long, non_blocking=True),
                    torch.from_numpy(rows).to(self._device, torch.long, non_blocking=True),
                )
