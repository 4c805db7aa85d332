"""The right images: what a prompt and a seed stand for, composed as the training's targets are."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.quality.image_generator import STORED_EDGE
from benchmarks.quality.measures import pooled
from benchmarks.quality.store import Store, StoreEntry, fingerprint
from inference_server.model.latents import noise, pack
from training import composition
from training.choices import OPTIONS, choose
from training.composition import SIZE, compose, palette
from training.data.prose import lexicon
from training.data.prose.description import Description
from training.grounds import kinds
from training.network import TOKENS
from training.renderings import Rendered, render
from training.stream import COLUMNS, Coder
from training.styles import PLAIN, Look

CHANNELS = TOKENS[1] // 4
"""Channels of the latent."""
GRID = 2 * math.isqrt(TOKENS[0])
"""Edge of the latent."""


class Truth:
    """Composes the right images, and stores them.

    Args:
        cache: Folder of `training.data`.
        store: Store of the images.
        device: Device to compose on.
    """

    def __init__(self, cache: Path, store: Store, device: torch.device) -> None:
        self._cache, self._store, self._device = cache, store, device
        self._entries = lexicon.read()
        self._coder = Coder(self._entries)
        folder = Path(composition.__file__).parent
        sources = [
            *folder.glob("*.py"),
            *folder.glob("data/**/*.py"),
            *folder.glob("data/**/*.tsv"),
        ]
        self.key = fingerprint(sorted(sources), device.type)
        """Key of the images in the store."""

    def image(self, shown: Description, seed: int, look: Look = PLAIN) -> Tensor:
        """Returns the right image, uint8 [3, STORED_EDGE, STORED_EDGE]."""
        row = self._coder.row(shown)
        decided = choose(pack(noise(seed, CHANNELS, GRID, GRID))[None])
        option, variant, place = (int(choice) for choice in decided)
        name = f"{row} {option} {variant} {place} {look.set} {look.paint.__name__}"
        entry = self._store.read(self.key, name)
        if entry is None or entry.image is None:
            rgb = self._compose(row, option, variant, place, look)
            image = pooled(rgb, STORED_EDGE).mul(255).round().to(torch.uint8)
            entry = StoreEntry({"seed": seed}, image.cpu().numpy())
            self._store.write(self.key, name, entry)
        return torch.from_numpy(entry.image)

    def full(self, shown: Description, variant: int, place: int = 0) -> Tensor:
        """Returns an image in full size, [3, 1024, 1024] in 0..1, of any variant of its scene."""
        return self._compose(self._coder.row(shown), 0, variant, place, PLAIN)

    @torch.inference_mode()
    def _compose(
        self, row: tuple[int, ...], option: int, variant: int, place: int, look: Look
    ) -> Tensor:
        first, second, layout, *paints = row[: len(COLUMNS)]
        kind = kinds()[row[len(COLUMNS) + option % OPTIONS]]
        rendered = render(
            self._cache,
            look.set,
            [self._entries[index].concept for index in (first, second)],
            variants=[variant],
            device=self._device,
            workers=1,
            chosen=[kind],
        )
        return look.paint(_one(rendered, layout, place, paints))[0].clamp(0, 1)


def _one(rendered: Rendered, layout: int, place: int, paints: list[int]) -> Tensor:
    """Composes an image of the only ground and the two subjects."""
    device = rendered.contacts.device
    zero = torch.zeros(1, dtype=torch.long, device=device)
    shown = rendered.show(
        zero,
        zero + layout,
        zero + place,
        torch.tensor([[0, 1]], device=device),
        palette(device)[torch.tensor([paints], device=device)],
    )
    return compose(rendered.images, shown, zero, zero, SIZE)
