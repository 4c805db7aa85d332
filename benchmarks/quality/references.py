"""The reference images: every concept on every background, plain or in a style."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.quality.measures import pooled
from benchmarks.quality.store import Store, StoreEntry, fingerprint
from training import latents, styles
from training.data.concepts import Concept
from training.data.images import render_set
from training.data.render import Pack
from training.latents import centred, colours
from training.styles import STYLES, Paint

STORED_EDGE = 256
"""Edge of the renderings and of the stored images."""
SMALL = 64
"""Edge at which distances are computed."""
BATCH = 32

PLAIN = ""
"""Name of the look without a style."""
LOOKS = {PLAIN: styles.PLAIN} | {s.name: s.look for s in STYLES}


class References:
    """Reference images of all concepts.

    Args:
        concepts: All concepts of the table.
        cache: Folder of `training.data`; missing renderings are added to it.
        store: Store of the references of each look: on a CPU, neon takes minutes.
        device: Device of the references.
        advance: Called for every rendering, new or existing.
    """

    def __init__(
        self,
        concepts: Sequence[Concept],
        cache: Path,
        *,
        store: Store,
        device: torch.device,
        advance: Callable[[], None] = lambda: None,
    ) -> None:
        self.palette = colours(device)
        """The backgrounds, [14, 3] in 0..1."""
        self._device, self._store = device, store
        self._packs: dict[str, Path] = {}
        # Straight RGBA bytes, [concepts, 4, 256, 256] per set.
        self._renderings: dict[str, Tensor] = {}
        for name in sorted({name for sets, _ in LOOKS.values() for name in sets}):
            self._packs[name] = render_set(
                list(concepts), name, STORED_EDGE, cache=cache, advance=advance
            )
            with Pack(self._packs[name], read_only=True) as pack:
                read = [torch.from_numpy(pack.read(c.code)) for c in concepts]
            self._renderings[name] = torch.stack(read).permute(0, 3, 1, 2)

    def one(self, look: str, concept: int, colour: int) -> Tensor:
        """Returns one reference, [3, 256, 256]."""
        placed = self._placed(look, slice(concept, concept + 1))
        return LOOKS[look][1](placed, self.palette[colour][None])[0]

    def all(self, look: str) -> Tensor:
        """Returns all references of a look, uint8 [14, concepts, 3, 64, 64]: 93 MB."""
        sets, paint = LOOKS[look]
        sources = [Path(styles.__file__), Path(latents.__file__)]
        key = fingerprint([*(self._packs[name] for name in sets), *sources])
        entry = self._store.read(key, look)
        if entry is None or entry.image is None:
            entry = StoreEntry({}, self._make(look, paint).numpy())
            self._store.write(key, look, entry)
        return torch.from_numpy(entry.image).to(self._device)

    def _make(self, look: str, paint: Paint) -> Tensor:
        """Makes the references that `all` returns, on the CPU."""
        count = len(next(iter(self._renderings.values())))
        made = torch.empty((len(self.palette), count, 3, SMALL, SMALL), dtype=torch.uint8)
        for start in range(0, count, BATCH):
            rows = slice(start, min(count, start + BATCH))
            placed = self._placed(look, rows)
            for number, ground in enumerate(self.palette):
                rgb = paint(placed, ground.expand(len(placed[0]), 3))
                small = pooled(rgb, SMALL).mul(255).round().to(torch.uint8)
                made[number, rows] = small.cpu()
        return made

    def _placed(self, look: str, rows: slice) -> list[Tensor]:
        """Returns centred, premultiplied renderings [rows, 4, 256, 256] per set of the look."""
        names = LOOKS[look][0]
        return [centred(self._renderings[name][rows].to(self._device)) for name in names]
