"""Captions of every concept on every background, as ids on the device.

Owns the pool that training draws its prompts from, and the prompts of an evaluation. Slot 14 of
the backgrounds stands for a caption that names none.
"""

from __future__ import annotations

import random
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import Qwen2Tokenizer

from training.data.captions import COLOURS, LANGUAGES, caption
from training.data.concepts import Concept
from training.network import TEXT_TOKENS
from training.text_encoder import Prompts, tokenize

OPEN = len(COLOURS)
"""The slot of captions that leave the background open."""
OPEN_SHARE = 0.1
EMPTY_SHARE = 0.05
"""How often a caption is left out, so that guidance has something to start from."""


class Drawn(NamedTuple):
    """A batch of captions and what they ask for."""

    prompts: Prompts
    concept: Tensor
    colour: Tensor
    """A background's index; where the caption names none, a random one."""
    said: tuple[Tensor, Tensor]
    """What the words tell: concept (-100 in an empty caption) and background's slot."""


class Pool:
    """`each` captions of every concept and slot, half of them Chinese."""

    def __init__(
        self,
        tokenizer: Qwen2Tokenizer,
        concepts: list[Concept],
        each: int,
        seed: int,
        device: torch.device,
    ) -> None:
        rng = random.Random(seed)
        texts = [
            caption(concept, colour, LANGUAGES[number % 2], rng)
            for concept in concepts
            for colour in (*COLOURS, None)
            for number in range(each)
        ]
        ids, mask = tokenize(tokenizer, [*texts, ""], TEXT_TOKENS)
        self._empty = Prompts(ids[-1:].to(device), mask[-1:].to(device))
        shape = (len(concepts), OPEN + 1, each)
        self._ids = ids[:-1].int().to(device).unflatten(0, shape)
        self._mask = mask[:-1].to(device).unflatten(0, shape)
        self._device = device

    def draw(self, count: int, plain: bool = False) -> Drawn:
        """`count` random captions; `plain` ones are never empty and always name a background."""

        def random_index(limit: int) -> Tensor:
            return torch.randint(limit, (count,), device=self._device)

        def chance(share: float) -> Tensor:
            return torch.rand(count, device=self._device) < (0.0 if plain else share)

        concept, colour = random_index(self._ids.shape[0]), random_index(OPEN)
        slot = torch.where(chance(OPEN_SHARE), OPEN, colour)
        number = random_index(self._ids.shape[2])
        empty = chance(EMPTY_SHARE)[:, None]
        ids = torch.where(empty, self._empty.ids, self._ids[concept, slot, number].long())
        mask = torch.where(empty, self._empty.mask, self._mask[concept, slot, number])
        said = torch.where(empty[:, 0], -100, concept), torch.where(empty[:, 0], OPEN, slot)
        return Drawn(Prompts(ids, mask), concept, colour, said)

    def empty(self, count: int) -> Prompts:
        """The prompt without words, `count` times."""
        return Prompts(*(x.expand(count, -1) for x in self._empty))
