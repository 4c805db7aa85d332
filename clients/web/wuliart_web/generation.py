"""One image from the click to its file, event by event, and the images of one visit.

Owns what the right half shows while an image is generated, and how a finished one is shown again.
Knows the gRPC client and the page's words; where on the page things stand is `page`'s.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence
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
from wuliart_web import failures, viewer
from wuliart_web.images import Images

_STRIP: Final = 24
"""Images in a strip, the newest."""

Said = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a visitor asked for; `seed` is the one it is generated with."""

    prompt: str
    seed: int
    steps: int
    adapters: tuple[AdapterWeight, ...]


@dataclass(frozen=True, slots=True)
class Drawn:
    """A finished image of this visit; `number` counts them from 0."""

    number: int
    address: str
    asked: Asked


class Button(Enum):
    """Which of the three the big button is."""

    DRAW = "draw"
    GENERATING = "generating"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Shown:
    """The right half as HTML, the big button, and the image once it is there."""

    html: str
    button: Button
    drawn: Drawn | None = None


async def draw(
    client: AsyncClient, images: Images, asked: Asked, number: int, said: Said
) -> AsyncIterator[Shown]:
    """Everything that is shown of one image, in order; a failure is shown too, not raised."""
    nothing = (0, asked.steps)
    yield Shown(viewer.view(said["asking"], steps=nothing), Button.GENERATING)
    before, remarks = "", list[str]()
    began = time.monotonic()
    try:
        async with client.generate(
            asked.prompt, seed=asked.seed, steps=asked.steps, adapters=asked.adapters, preview=True
        ) as events:
            async for event in events:
                if isinstance(event, Completed):
                    drawn = Drawn(number, images.add(event.image.data), asked)
                    line = said["done"].format(seconds=time.monotonic() - began, seed=asked.seed)
                    line = " · ".join([line, *remarks])
                    yield Shown(finished(drawn, line, said, before), Button.DRAW, drawn)
                    continue
                if isinstance(event, Started):
                    remarks = _remarks(event, said)
                elif isinstance(event, Step) and event.preview is not None:
                    before = viewer.jpeg_source(event.preview)
                yield _under_way(event, asked, before, said)
    except WuliArtError as failure:
        line = failures.told(failure, said)
        yield Shown(viewer.view(line, viewer.note(said["here"])), Button.DRAW)


def _remarks(started: Started, said: Said) -> list[str]:
    """How the image differs from what was asked for."""
    remarks = [said["skipped"].format(name=adapter.name) for adapter in started.skipped_adapters]
    if started.prompt_tokens_ignored:
        remarks.append(said["ignored"].format(count=started.prompt_tokens_ignored))
    return remarks


def _under_way(event: Event, asked: Asked, before: str, said: Said) -> Shown:
    if isinstance(event, Queued):
        line = said["waiting"].format(before=event.position) if event.position > 1 else said["next"]
        return Shown(viewer.view(line, steps=(0, asked.steps)), Button.STOP)
    if isinstance(event, Started):
        line = said["started"].format(steps=event.steps)
        return Shown(viewer.view(line, steps=(0, event.steps)), Button.STOP)
    assert isinstance(event, Step)
    key = "decoding" if event.step == event.total_steps else "stepped"
    line = said[key].format(step=event.step, steps=event.total_steps)
    inner = viewer.preview(before, asked.prompt)
    return Shown(viewer.view(line, inner, steps=(event.step, event.total_steps)), Button.STOP)


def finished(drawn: Drawn, line: str, said: Said, before: str = "") -> str:
    """The right half with a finished image under a line of text."""
    inner = viewer.image(drawn.address, drawn.asked.prompt, said["zoom"], before)
    return viewer.view(line, inner, viewer.tools(drawn.address, said))


def kept(visit: Sequence[Drawn], drawn: Drawn) -> list[Drawn]:
    """The images of a visit with one more, the newest first."""
    return [drawn, *visit][:_STRIP]


def strip(visit: Sequence[Drawn], said: Said) -> str:
    """The strip of a visit's images."""
    named = (
        (d.number, d.address, said["thumb"].format(prompt=d.asked.prompt, seed=d.asked.seed))
        for d in visit
    )
    return viewer.strip(named, said["strip"])
