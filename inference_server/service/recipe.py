"""Recipes of images: a request and the exact adapters in use, as text for the image's EXIF."""

from __future__ import annotations

import numpy as np

from inference_server import VERSION
from inference_server.scheduler.events import AdapterUse
from inference_server.scheduler.image_request import ImageRequest
from inference_server.scheduler.jpeg_thread import Describe
from wuliart_contract.recipe import Recipe, RecipeAdapter


def describer(model: str, schedule: str) -> Describe:
    """Returns a function that writes the recipe of an image.

    Args:
        model: name of the model.
        schedule: name or parameters of the schedule.
    """

    def describe(request: ImageRequest, uses: tuple[AdapterUse, ...]) -> str:
        adapters = tuple(RecipeAdapter(u.name, _shortest(u.weight), u.content_hash) for u in uses)
        recipe = Recipe(
            prompt=request.prompt,
            seed=request.seed,
            steps=request.steps,
            adapters=adapters,
            model=model,
            schedule=schedule,
            version=VERSION,
        )
        return recipe.text({u.name: u.autov3 for u in uses})

    return describe


def _shortest(weight: float) -> float:
    """Returns the shortest decimal number of the same float32: 0.8, not 0.800000012."""
    return float(np.format_float_positional(np.float32(weight), unique=True))
