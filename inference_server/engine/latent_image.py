"""One image between its noise and its pixels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from inference_server.engine.prompt_cache import PromptEmbedding
from inference_server.model.kernels.low_rank import GatedAdapter
from inference_server.model.modulation import StepModulation


class LatentImage:
    """The latents of one image, and all that its next step needs.

    Args:
        prompt: embedding of its prompt.
        sigmas: noise levels, one more than there are steps; the last is 0.
        modulation: the transformer's modulation, one for each step.
        adapters: adapters with their weights.
        latents: [tokens, channels], packed, float32: the initial noise.
    """

    def __init__(
        self,
        prompt: PromptEmbedding,
        *,
        sigmas: Sequence[float],
        modulation: Sequence[StepModulation],
        adapters: Sequence[GatedAdapter],
        latents: Tensor,
    ) -> None:
        self.prompt = prompt
        self.sigmas = sigmas
        self.modulation = modulation
        self.adapters = adapters
        self.latents = latents
        """[tokens, channels], packed, float32: rounding to bf16 between steps would add up."""
        self.clean = latents
        """The clean latents that the last step predicted; previews show them."""
        self.step = 0
        """Steps done."""

    @property
    def total_steps(self) -> int:
        """Steps from noise to image."""
        return len(self.sigmas) - 1
