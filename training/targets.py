"""Training targets, made as they are needed: composed on the GPU, in a look, and encoded.

Combinations of subjects, scenes and places are too many to be encoded beforehand, and the fast
encoder takes less time than the transformer's step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from training import composition
from training.autoencoder import Autoencoder
from training.choices import Choices
from training.composition import SIZE, Shown
from training.latents import pack, unpack
from training.renderings import Rendered
from training.stream import COLUMNS
from training.styles import Paint


class Targets:
    """Makes the images that rows of `stream.Batch` describe.

    Args:
        rendered: Subjects and grounds.
        paint: The look.
        autoencoder: The trained VAE, frozen.
        compiled: Compiles composition and encoder, for one size of batch.
    """

    def __init__(
        self, rendered: Rendered, paint: Paint, autoencoder: Autoencoder, compiled: bool
    ) -> None:
        device = rendered.contacts.device
        self._rendered, self._paint, self._autoencoder = rendered, paint, autoencoder
        self._palette = composition.palette(device)
        self._corner = torch.zeros((), dtype=torch.long, device=device)
        self._make = torch.compile(self._latents) if compiled else self._latents

    def shown(self, rows: Tensor, choices: Choices) -> Shown:
        """Returns what the images of captions show.

        Args:
            rows: [B, C], as `stream.Coder.row` makes them.
            choices: What is left open.
        """
        first, second, layout, paint, paint2 = rows[:, : len(COLUMNS)].unbind(1)
        kind = rows[:, len(COLUMNS) :].gather(1, choices.option[:, None])[:, 0]
        ground = self._rendered.first[kind] + choices.variant % self._rendered.variants[kind]
        return self._rendered.show(
            ground,
            layout,
            choices.place,
            torch.stack([first, second], 1),
            self._palette[torch.stack([paint, paint2], 1)],
        )

    @torch.no_grad()
    def images(self, shown: Shown) -> Tensor:
        """Returns RGB [B, 3, 1024, 1024] in 0..1."""
        corner = self._corner.expand(len(shown.ground))
        return self._paint(composition.compose(self._rendered.images, shown, corner, corner, SIZE))

    def _latents(self, shown: Shown) -> Tensor:
        x = (self.images(shown) * 2 - 1).to(self._autoencoder.dtype)
        return self._autoencoder.encode(x.contiguous(memory_format=torch.channels_last))

    @torch.no_grad()
    def __call__(self, rows: Tensor, choices: Choices) -> Tensor:
        """Returns packed latents [B, 256, 128], fp32."""
        return pack(self._make(self.shown(rows, choices)))

    @torch.no_grad()
    def decode(self, packed: Tensor) -> Tensor:
        """Decodes packed latents to RGB [B, 3, 1024, 1024] in 0..1, fp32."""
        out = self._autoencoder.decode(unpack(packed).to(self._autoencoder.dtype))
        return ((out.float() + 1) / 2).clamp(0, 1)
