"""What an image says of itself: a request and its exact adapters as the contract's recipe.

Owns the translation; the text's form is the contract package's, its place the JPEG encoder's.
"""

from __future__ import annotations

import numpy as np

from inference_server import VERSION
from inference_server.scheduler.events import AdapterUse
from inference_server.scheduler.image_request import ImageRequest
from inference_server.scheduler.jpeg_thread import Describe
from wuliart_contract.recipe import Recipe, RecipeAdapter


def describer(model: str, schedule: str) -> Describe:
    """Writes recipes of images that the model of that name generates with that schedule."""

    def describe(request: ImageRequest, uses: tuple[AdapterUse, ...]) -> str:
        adapters = tuple(RecipeAdapter(u.name, _shortest(u.weight), u.content_hash) for u in uses)
        what = request.prompt, request.seed, request.steps
        recipe = Recipe(*what, adapters, model, schedule, VERSION)
        return recipe.text({u.name: u.autov3 for u in uses})

    return describe


def _shortest(weight: float) -> float:
    """The shortest number that is the same float32 on the wire: 0.8, not 0.800000012."""
    return float(np.format_float_positional(np.float32(weight), unique=True))
