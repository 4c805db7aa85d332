"""The right half of the page as HTML: what is said, the image, the strip of a visit's images.

Knows no Gradio and no gRPC. Everything that a visitor or a server wrote goes in as plain text.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from html import escape


def view(said: str, inner: str = "", tools: str = "", steps: tuple[int, int] | None = None) -> str:
    """A status line above a square.

    Args:
        said: plain text.
        inner: HTML of the square.
        tools: HTML beside the status line.
        steps: while something is under way, how many steps of how many have ended.
    """
    bar = ""
    if steps is not None:
        done, total = steps
        parts = ("<i class='on'></i>" if n < done else "<i></i>" for n in range(total))
        bar = f'<div class="steps" aria-hidden="true">{"".join(parts)}</div>'
    return (
        f'<div class="said"><span class="line">{escape(said)}</span>{tools}</div>'
        f'<div class="viewer">{inner}{bar}</div>'
    )


def jpeg_source(jpeg: bytes) -> str:
    """A small JPEG as an address of its own."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def preview(source: str, prompt: str) -> str:
    """What a step has made, small and soft, at the size of the image."""
    return f'<img class="preview" src="{escape(source)}" alt="{escape(prompt)}">' if source else ""


def image(address: str, prompt: str, zoom: str, before: str = "") -> str:
    """The finished image.

    Args:
        address: ends in its file name.
        prompt: what it shows, for who cannot see it.
        zoom: says which keys zoom.
        before: address of the last preview, seen until the image is there.
    """
    under = f" style=\"background-image: url('{escape(before)}')\"" if before else ""
    return (
        f'<div class="whole" tabindex="0" role="group" aria-label="{escape(zoom)}">'
        f'<img class="finished" src="{escape(address)}" alt="{escape(prompt)}" '
        f'draggable="false"{under}></div>'
    )


def tools(address: str, said: Mapping[str, str]) -> str:
    """Save and full screen."""
    name = address.rsplit("/", 1)[1]
    return (
        '<span class="tools">'
        f'<a class="save" href="{escape(address)}" download="{escape(name)}">'
        f"{escape(said['save'])}</a>"
        f'<button type="button" class="full">{escape(said["whole"])}</button></span>'
    )


def strip(images: Iterable[tuple[int, str, str]], heading: str) -> str:
    """Small images to choose from, the newest first and chosen.

    Args:
        images: for each its number, its address, and what it is called.
        heading: what they all are.
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
    """A line of plain text."""
    return f"<p>{escape(text)}</p>"
