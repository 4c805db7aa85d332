"""The embedding of a prompt, and how much memory embeddings are kept in."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from inference_server.model.rope import Rotation

PROMPT_CACHE_BYTES = 64_000_000
"""Size of the kept embeddings: sixteen prompts of the greatest length, or 150 usual ones."""


@dataclass(frozen=True, slots=True)
class PromptEmbedding:
    """What the transformer reads of a prompt."""

    states: Tensor
    """[tokens, text_features] in the model's dtype."""
    rotation: Rotation
    tokens: int
    tokens_ignored: int

    @property
    def nbytes(self) -> int:
        """Of its tensors."""
        return self.states.nbytes + sum(t.nbytes for t in self.rotation)
