"""Captions of every concept on every background, as ids on the device.

Owns the pool that training draws its prompts from. Batches hold captions of one length, so that
nothing is padded. Slot 14 of the backgrounds stands for a caption that names none.
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
"""The slot of captions that leave the background open."""
OPEN_SHARE = 0.1


class Drawn(NamedTuple):
    """A batch of captions of one length, and what they ask for."""

    ids: Tensor
    """[B, 34 + length], the template's prefix included."""
    concept: Tensor
    slot: Tensor
    """The background that the words name, or OPEN."""
    colour: Tensor
    """The background to draw: where the caption names none, a random one."""


class Pool:
    """`each` captions of every concept and background, half of them Chinese.

    Args:
        tokenizer: makes ids of them.
        concepts: what they are of.
        each: how many of a concept and background.
        seed: of their choice.
        device: where the ids lie.
        open_share: how many of all name no background.
        triggers: a style's words, (English, Chinese), which half of the captions then end with.

    Raises:
        ValueError: a caption takes more than TEXT_TOKENS tokens.
    """

    def __init__(
        self,
        tokenizer: Qwen2Tokenizer,
        concepts: list[Concept],
        each: int,
        seed: int,
        device: torch.device,
        open_share: float = OPEN_SHARE,
        triggers: Sequence[str] = (),
    ) -> None:
        rng = random.Random(seed)
        # As many captions without a background as give them their share among all.
        bare = round(each * OPEN * open_share / (1 - open_share))
        asked = [
            (number, slot, LANGUAGES[turn % 2])
            for number in range(len(concepts))
            for slot, count in (*((slot, each) for slot in range(OPEN)), (OPEN, bare))
            for turn in range(count)
        ]
        slots = (*COLOURS, None)
        texts = [caption(concepts[n], slots[slot], language, rng) for n, slot, language in asked]
        if triggers:
            # Half the prompts of a style name it: (English, Chinese).
            ending = {"en": f", {triggers[0]}", "zh": f"，{triggers[1]}"}
            texts = [
                text + ending[language] if rng.random() < 0.5 else text
                for text, (_, _, language) in zip(texts, asked, strict=True)
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
                torch.tensor([asked[index][:2] for index in group], device=device),
            )
            for group in groups.values()
        ]
        self._rng = random.Random(seed + 1)
        self._sizes = [len(group) for group in groups.values()]

    def draw(self, count: int) -> Drawn:
        """`count` random captions of one length; a length comes as often as it has captions."""
        ids, facts = self._rng.choices(self._groups, self._sizes)[0]
        rows = torch.randint(len(ids), (count,), device=ids.device)
        concept, slot = facts[rows].unbind(1)
        free = torch.randint(OPEN, (count,), device=ids.device)
        return Drawn(ids[rows], concept, slot, torch.where(slot == OPEN, free, slot))
