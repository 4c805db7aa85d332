"""The right half of the page as HTML: a status line, the image, the strip of a visit's images.

All text from visitors and servers is escaped here.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from html import escape


def view(line: str, inner: str = "", tools: str = "", steps: tuple[int, int] | None = None) -> str:
    """Returns a status line above a square.

    Args:
        line: plain text.
        inner: HTML of the square.
        tools: HTML beside the status line.
        steps: finished steps and their total, while an image is generated.
    """
    bar = ""
    if steps is not None:
        done, total = steps
        parts = ("<i class='on'></i>" if n < done else "<i></i>" for n in range(total))
        bar = f'<div class="steps" aria-hidden="true">{"".join(parts)}</div>'
    return (
        f'<div class="status-line"><span class="line">{escape(line)}</span>{tools}</div>'
        f'<div class="viewer">{inner}{bar}</div>'
    )


def jpeg_source(jpeg: bytes) -> str:
    """Returns a small JPEG as a data URL."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def preview(source: str, prompt: str) -> str:
    """Returns a step's preview, scaled to the size of the image; empty without a `source`."""
    return f'<img class="preview" src="{escape(source)}" alt="{escape(prompt)}">' if source else ""


def image(address: str, prompt: str, zoom: str, preview: str = "") -> str:
    """Returns the finished image.

    Args:
        address: ends in its file name.
        prompt: alternative text.
        zoom: text that says which keys zoom.
        preview: address of the last preview, visible until the image is loaded.
    """
    under = f" style=\"background-image: url('{escape(preview)}')\"" if preview else ""
    return (
        f'<div class="image-frame" tabindex="0" role="group" aria-label="{escape(zoom)}">'
        f'<img class="finished" src="{escape(address)}" alt="{escape(prompt)}" '
        f'draggable="false"{under}></div>'
    )


def tools(address: str, texts: Mapping[str, str]) -> str:
    """Returns the links beside the status line: save and full screen."""
    name = address.rsplit("/", 1)[1]
    return (
        '<span class="tools">'
        f'<a class="save" href="{escape(address)}" download="{escape(name)}">'
        f"{escape(texts['save'])}</a>"
        f'<button type="button" class="full">{escape(texts["whole"])}</button></span>'
    )


def strip(images: Iterable[tuple[int, str, str]], heading: str) -> str:
    """Returns thumbnails to choose from; the first is marked as chosen.

    Args:
        images: number, address and label of each, newest first.
        heading: label of the group.
    """
    thumbs = [
        f'<button type="button" data-number="{number}" title="{escape(name)}" '
        f'aria-label="{escape(name)}" aria-current="{"true" if chosen else "false"}">'
        f'<img src="{escape(address)}" alt=""></button>'
        for number, address, name, chosen in (
            (*entry, place == 0) for place, entry in enumerate(images)
        )
    ]
    return (
        f'<div class="strip" role="group" aria-label="{escape(heading)}">{"".join(thumbs)}</div>'
        if thumbs
        else ""
    )


def note(text: str) -> str:
    """Returns a paragraph of plain text."""
    return f"<p>{escape(text)}</p>"
