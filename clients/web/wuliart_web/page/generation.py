"""Shows one image while it is generated: each event of the service becomes a state of the page."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from wuliart_client import (
    AdapterWeight,
    AsyncClient,
    Completed,
    Event,
    Queued,
    Started,
    Step,
    WuliArtError,
)
from wuliart_web.image_store import ImageStore
from wuliart_web.page import view
from wuliart_web.page.error_texts import error_text
from wuliart_web.texts import Texts

_MAX_STRIP: Final = 24
"""Images in a visit's strip, the newest ones."""


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """The settings of one image; a visitor who left the seed unlocked gets a random one."""

    prompt: str
    seed: int
    steps: int
    adapters: tuple[AdapterWeight, ...]


@dataclass(frozen=True, slots=True)
class FinishedImage:
    """A finished image of this visit."""

    number: int
    """Counts the visit's images from 0."""
    address: str
    """Its path on this server."""
    settings: ImageSettings


class Button(Enum):
    """The three states of the big button."""

    GENERATE = "generate"
    GENERATING = "generating"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class PageUpdate:
    """A state of the page during generation."""

    html: str
    """The right half."""
    button: Button
    finished: FinishedImage | None = None


async def generate(
    client: AsyncClient,
    images: ImageStore,
    settings: ImageSettings,
    *,
    number: int,
    texts: Texts,
) -> AsyncIterator[PageUpdate]:
    """Generates one image and yields the states of the page; an error is shown, not raised.

    Args:
        client: generates in the visitor's name.
        images: keeps the finished image.
        settings: of the image.
        number: of the image in this visit.
        texts: in the visitor's language.
    """
    start = view.view(texts["rendering"], steps=(0, settings.steps))
    yield PageUpdate(start, Button.GENERATING)
    preview, remarks = "", list[str]()
    began = time.monotonic()
    try:
        async with client.generate(
            settings.prompt,
            seed=settings.seed,
            steps=settings.steps,
            adapters=settings.adapters,
            preview=True,
        ) as events:
            async for event in events:
                if isinstance(event, Completed):
                    image = FinishedImage(number, images.add(event.image.data), settings)
                    seconds = time.monotonic() - began
                    done = texts["done"].format(seconds=seconds, seed=settings.seed)
                    html = finished_view(image, " · ".join([done, *remarks]), texts, preview)
                    yield PageUpdate(html, Button.GENERATE, image)
                    continue
                if isinstance(event, Started):
                    remarks = _remarks(event, texts)
                elif isinstance(event, Step) and event.preview is not None:
                    preview = view.jpeg_source(event.preview)
                yield PageUpdate(_progress_view(event, settings, preview, texts), Button.STOP)
    except WuliArtError as error:
        html = view.view(error_text(error, texts), view.note(texts["here"]))
        yield PageUpdate(html, Button.GENERATE)


def finished_view(image: FinishedImage, line: str, texts: Texts, preview: str = "") -> str:
    """Returns the right half with a finished image under a line of text.

    Args:
        image: the image.
        line: plain text.
        texts: in the visitor's language.
        preview: address of the last preview, visible until the image is loaded.
    """
    inner = view.image(image.address, image.settings.prompt, texts["zoom"], preview)
    return view.view(line, inner, view.tools(image.address, texts))


def with_newest(visit: Sequence[FinishedImage], image: FinishedImage) -> list[FinishedImage]:
    """Returns a visit's images, newest first, with one more."""
    return [image, *visit][:_MAX_STRIP]


def strip(visit: Sequence[FinishedImage], texts: Texts) -> str:
    """Returns the strip of a visit's images as HTML."""
    entries = (
        (i.number, i.address, texts["thumb"].format(prompt=i.settings.prompt, seed=i.settings.seed))
        for i in visit
    )
    return view.strip(entries, texts["strip"])


def _remarks(started: Started, texts: Texts) -> list[str]:
    """Returns how the image will differ from what its settings say."""
    remarks = [texts["skipped"].format(name=adapter.name) for adapter in started.skipped_adapters]
    if started.prompt_tokens_ignored:
        remarks.append(texts["ignored"].format(count=started.prompt_tokens_ignored))
    return remarks


def _progress_view(event: Event, settings: ImageSettings, preview: str, texts: Texts) -> str:
    """Returns the right half for an event before the image is finished."""
    if isinstance(event, Queued):
        before = event.position
        line = texts["waiting"].format(before=before) if before > 1 else texts["next"]
        return view.view(line, steps=(0, settings.steps))
    if isinstance(event, Started):
        line = texts["started"].format(steps=event.steps)
        return view.view(line, steps=(0, event.steps))
    assert isinstance(event, Step)
    key = "decoding" if event.step == event.total_steps else "stepped"
    line = texts[key].format(step=event.step, steps=event.total_steps)
    inner = view.preview(preview, settings.prompt)
    return view.view(line, inner, steps=(event.step, event.total_steps))
