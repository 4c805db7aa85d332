"""The pool of training prompts: captions of every concept on every background, as token ids.

All captions of a batch have the same length, so that nothing is padded. Slot 14 of the backgrounds
marks a caption that names none.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import Qwen2Tokenizer

from training.data.captions import COLOURS, LANGUAGES, caption
from training.data.concepts import Concept
from training.network import TEXT_TOKENS
from training.text_encoder import tokenize
from training.tokenizer import TEMPLATE_TOKENS

OPEN = len(COLOURS)
"""Slot of captions that leave the background open."""
OPEN_SHARE = 0.1
"""Share of those captions."""


class Sample(NamedTuple):
    """A batch of captions of one length, and the images that they describe."""

    ids: Tensor
    """Token ids [B, 34 + length], including the template's prefix."""
    concept: Tensor
    """Index of the concept [B]."""
    slot: Tensor
    """Index of the background that the caption names, or OPEN [B]."""
    colour: Tensor
    """Index of the image's background [B]; random where the caption names none."""


class Pool:
    """Captions of all concepts and backgrounds, half of them Chinese.

    Args:
        tokenizer: Tokenizer of the embedded model.
        concepts: Concepts to describe.
        each: Number of captions per concept and background.
        seed: Seed of the captions and of the samples' lengths.
        device: Device of the ids.
        open_share: Share of the captions that name no background.
        triggers: A style's trigger words (English, Chinese), appended to half of the captions.

    Raises:
        ValueError: A caption takes more than TEXT_TOKENS tokens.
    """

    def __init__(
        self,
        tokenizer: Qwen2Tokenizer,
        concepts: list[Concept],
        each: int,
        *,
        seed: int,
        device: torch.device,
        open_share: float = OPEN_SHARE,
        triggers: Sequence[str] = (),
    ) -> None:
        rng = random.Random(seed)
        # Captions without a background per concept, so that their share of all is open_share.
        bare = round(each * OPEN * open_share / (1 - open_share))
        subjects = [
            (number, slot, LANGUAGES[turn % 2])
            for number in range(len(concepts))
            for slot, count in (*((slot, each) for slot in range(OPEN)), (OPEN, bare))
            for turn in range(count)
        ]
        slots = (*COLOURS, None)
        texts = [caption(concepts[n], slots[slot], language, rng) for n, slot, language in subjects]
        if triggers:
            ending = {"en": f", {triggers[0]}", "zh": f"，{triggers[1]}"}
            texts = [
                text + ending[language] if rng.random() < 0.5 else text
                for text, (_, _, language) in zip(texts, subjects, strict=True)
            ]
        groups: dict[int, list[int]] = {}
        encoded = tokenize(tokenizer, texts)
        for index, ids in enumerate(encoded):
            groups.setdefault(len(ids), []).append(index)
        if max(groups) > TEMPLATE_TOKENS + TEXT_TOKENS:
            longest = texts[groups[max(groups)][0]]
            raise ValueError(f"{longest!r} takes over {TEXT_TOKENS} tokens")
        self._groups = [
            (
                torch.tensor([encoded[index] for index in group], device=device),
                torch.tensor([subjects[index][:2] for index in group], device=device),
            )
            for group in groups.values()
        ]
        self._rng = random.Random(seed + 1)
        self._sizes = [len(group) for group in groups.values()]

    def sample(self, count: int) -> Sample:
        """Samples `count` captions of one length; lengths are weighted by their captions."""
        ids, facts = self._rng.choices(self._groups, self._sizes)[0]
        rows = torch.randint(len(ids), (count,), device=ids.device)
        concept, slot = facts[rows].unbind(1)
        free = torch.randint(OPEN, (count,), device=ids.device)
        return Sample(ids[rows], concept, slot, torch.where(slot == OPEN, free, slot))
