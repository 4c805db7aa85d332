"""Handlers of the page's events: generating an image, stopping, and restoring an earlier image.

State of a visitor lives in that visitor's Gradio session, never in this module.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import gradio as gr

from wuliart_client import AdapterWeight
from wuliart_web.clients import ClientFor
from wuliart_web.image_store import ImageStore
from wuliart_web.page import generation, view
from wuliart_web.page.generation import Button, FinishedImage, ImageSettings
from wuliart_web.texts import Texts, texts_for

SEEDS: Final = 2**32
"""Random seeds are below this; the field accepts any seed below 2**53."""

Outputs = tuple[Any, ...]
"""New values of a handler's output components, in their order; Gradio's updates among them."""


def random_seed() -> int:
    """Returns a new random seed."""
    return random.randrange(SEEDS)


def request_texts(request: gr.Request) -> Texts:
    """Returns the page's texts in the language of the visitor's browser."""
    return texts_for(request.headers.get("accept-language", ""))


def welcome(request: gr.Request) -> str:
    """Returns the right half of a page that has just been opened."""
    return _without_image(request_texts(request), "empty")


def reset_after_stop(request: gr.Request) -> Outputs:
    """Returns the right half and the buttons after Stop."""
    return _without_image(request_texts(request), "stopped"), *button_updates(Button.GENERATE)


def button_updates(visible: Button) -> list[gr.Button]:
    """Returns updates for the three buttons, in `Button`'s order, of which one is visible."""
    return [gr.Button(visible=button is visible) for button in Button]


def generate_handler(
    client_for: ClientFor, images: ImageStore
) -> Callable[..., AsyncIterator[Outputs]]:
    """Returns the handler of the Generate button."""

    async def generate(
        prompt: str,
        adapter: str | None,
        weight: float,
        second: str | None,
        second_weight: float,
        seed: int | None,
        keep: bool,
        steps: int,
        visit: list[FinishedImage],
        request: gr.Request,
    ) -> AsyncIterator[Outputs]:
        """Yields every state of the page while one image is generated."""
        texts = request_texts(request)
        if not prompt.strip():
            unchanged = seed, gr.skip(), gr.skip()
            yield _without_image(texts, "empty"), *button_updates(Button.GENERATE), *unchanged
            return
        chosen = ((adapter, weight), (second, second_weight))
        settings = ImageSettings(
            prompt,
            seed=seed if keep and seed is not None else random_seed(),
            steps=steps,
            adapters=tuple(AdapterWeight(name, strength) for name, strength in chosen if name),
        )
        number = visit[0].number + 1 if visit else 0
        client = client_for(request.headers)
        updates = generation.generate(client, images, settings, number=number, texts=texts)
        async for update in updates:
            strip, images_of_visit = gr.skip(), gr.skip()
            if update.finished is not None:
                images_of_visit = generation.with_newest(visit, update.finished)
                strip = generation.strip(images_of_visit, texts)
            buttons = button_updates(update.button)
            yield update.html, *buttons, settings.seed, strip, images_of_visit

    return generate


def restore(visit: list[FinishedImage], event: gr.EventData, request: gr.Request) -> Outputs:
    """Returns an earlier image of this visit and the controls as they were; the seed is locked."""
    texts = request_texts(request)
    number = getattr(event, "number", None)
    image = next((image for image in visit if image.number == number), None)
    if image is None:
        # It has left the strip, or the page was restarted since.
        return (gr.skip(),) * 9
    settings = image.settings
    line = texts["again"].format(seed=settings.seed)
    adapters: list[Any] = [part for a in settings.adapters for part in (a.name, a.weight)]
    adapters += ["", 1] * (2 - len(settings.adapters))
    html = generation.finished_view(image, line, texts)
    return html, settings.prompt, *adapters, settings.seed, True, settings.steps


def _without_image(texts: Texts, key: str) -> str:
    """The right half without an image, under the text of `key`."""
    return view.view(texts[key], view.note(texts["here"]))
