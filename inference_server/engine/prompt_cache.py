"""Prompt embeddings, and a cache of the most recently used ones."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor

from inference_server.model.rope import Rotation

PROMPT_CACHE_BYTES = 64_000_000
"""Size of the cache: sixteen prompts of the greatest length, or 150 usual ones."""


@dataclass(frozen=True, slots=True)
class PromptEmbedding:
    """A prompt as the transformer reads it."""

    states: Tensor
    """[tokens, text_features] in the model's dtype."""
    rotation: Rotation
    tokens: int
    tokens_ignored: int
    """Tokens past the greatest length."""

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return self.states.nbytes + sum(t.nbytes for t in self.rotation)


class PromptCache:
    """Embeddings by prompt; drops the least recently used ones past PROMPT_CACHE_BYTES."""

    def __init__(self) -> None:
        self._embeddings: OrderedDict[str, PromptEmbedding] = OrderedDict()
        self._nbytes = 0

    def __contains__(self, prompt: str) -> bool:
        return prompt in self._embeddings

    def get(self, prompt: str) -> PromptEmbedding | None:
        """Returns a prompt's embedding, now the most recently used one, or None."""
        if prompt in self._embeddings:
            self._embeddings.move_to_end(prompt)
        return self._embeddings.get(prompt)

    def put(self, prompt: str, embedding: PromptEmbedding) -> None:
        """Adds an embedding."""
        if (previous := self._embeddings.pop(prompt, None)) is not None:
            self._nbytes -= previous.nbytes
        self._embeddings[prompt] = embedding
        self._nbytes += embedding.nbytes
        while self._nbytes > PROMPT_CACHE_BYTES:
            _, oldest = self._embeddings.popitem(last=False)
            self._nbytes -= oldest.nbytes
