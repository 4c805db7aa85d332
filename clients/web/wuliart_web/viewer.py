"""The right half of the page as HTML: what is said, and the picture. Knows no Gradio, no gRPC."""

from __future__ import annotations

import base64
from html import escape


def view(said: str, inner: str = "", tools: str = "", busy: bool = False) -> str:
    """A status line above a square.

    Args:
        said: plain text.
        inner: HTML of the square.
        tools: HTML beside the status line.
        busy: whether the square tells that something is under way.
    """
    classes = "viewer busy" if busy else "viewer"
    return (
        '<div class="said" role="status" aria-live="polite">'
        f'<span>{escape(said)}</span>{tools}</div><div class="{classes}">{inner}</div>'
    )


def preview(jpeg: bytes | None, prompt: str) -> str:
    """What a step has made, small and soft, at the size of the picture."""
    if jpeg is None:
        return ""
    source = "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
    return f'<img class="preview" src="{source}" alt="{escape(prompt)}">'


def picture(address: str, prompt: str) -> str:
    """The finished picture; `address` ends in its file name."""
    return f'<img src="{escape(address)}" alt="{escape(prompt)}" draggable="false">'


def tools(address: str, save: str, whole: str) -> str:
    """Save and full screen."""
    name = address.rsplit("/", 1)[1]
    return (
        '<span class="tools">'
        f'<a href="{escape(address)}" download="{escape(name)}">{escape(save)}</a>'
        f'<button type="button" class="whole">{escape(whole)}</button></span>'
    )


def note(text: str) -> str:
    """A line of plain text."""
    return f"<p>{escape(text)}</p>"
