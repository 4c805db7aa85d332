"""What the images should look like: every concept on every background, plain or in a style.

Owns the drawings that images are compared with. Knows nothing of prompts or of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.quality.measures import pooled
from benchmarks.quality.store import Kept, Store, fingerprint
from training import latents, styles
from training.data.concepts import Concept
from training.data.images import draw_set
from training.data.render import Pack
from training.latents import centred, colours
from training.styles import STYLES, Paint

DRAWN = 256
"""Edge of the drawings and of the images that are kept."""
SMALL = 64
"""Edge at which images are compared."""
BATCH = 32

PLAIN = ""
"""Name of the look without a style."""
LOOKS = {PLAIN: styles.PLAIN} | {s.name: s.look for s in STYLES}


class References:
    """Reference images of all concepts.

    Args:
        concepts: all of the table.
        cache: the folder of `training.data`; drawings that it lacks are generated into it.
        store: where painted looks are kept: on a CPU, neon takes minutes.
        device: where the references are painted and live.
        advance: called for every generating, made or found.
    """

    def __init__(
        self,
        concepts: Sequence[Concept],
        cache: Path,
        store: Store,
        device: torch.device,
        advance: Callable[[], None] = lambda: None,
    ) -> None:
        self.palette = colours(device)
        """[14, 3]."""
        self._device, self._store = device, store
        self._packs: dict[str, Path] = {}
        # Straight RGBA bytes, [concepts, 4, 256, 256] per set.
        self._drawings: dict[str, Tensor] = {}
        for name in sorted({name for sets, _ in LOOKS.values() for name in sets}):
            self._packs[name] = draw_set(list(concepts), name, DRAWN, cache, advance)
            with Pack(self._packs[name], read_only=True) as pack:
                read = [torch.from_numpy(pack.read(c.code)) for c in concepts]
            self._drawings[name] = torch.stack(read).permute(0, 3, 1, 2)

    def one(self, look: str, concept: int, colour: int) -> Tensor:
        """One reference, [3, 256, 256]."""
        placed = self._placed(look, slice(concept, concept + 1))
        return LOOKS[look][1](placed, self.palette[colour][None])[0]

    def all(self, look: str) -> Tensor:
        """Everything in one look, uint8 [14, concepts, 3, 64, 64]: 93 MB."""
        sets, paint = LOOKS[look]
        sources = [Path(styles.__file__), Path(latents.__file__)]
        key = fingerprint([*(self._packs[name] for name in sets), *sources])
        kept = self._store.read(key, look)
        if kept is None or kept.image is None:
            kept = Kept({}, self._painted(look, paint).numpy())
            self._store.write(key, look, kept)
        return torch.from_numpy(kept.image).to(self._device)

    def _painted(self, look: str, paint: Paint) -> Tensor:
        """What `all` returns, made anew, on the CPU."""
        count = len(next(iter(self._drawings.values())))
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
        """Premultiplied drawings in their place, [rows, 4, 256, 256] per set of the look."""
        names = LOOKS[look][0]
        return [centred(self._drawings[name][rows].to(self._device)) for name in names]
