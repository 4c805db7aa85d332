"""Keeps the page's lists of choices and its notices up to date with the service."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import gradio as gr

from wuliart_client import Adapter, AdapterState, ModelDescription
from wuliart_web.page import view
from wuliart_web.page.about import about
from wuliart_web.page.error_texts import error_text
from wuliart_web.page.handlers import Outputs, request_texts
from wuliart_web.page.styles import styles
from wuliart_web.service_watch import ServiceState, ServiceWatch
from wuliart_web.texts import Texts


class Choices(NamedTuple):
    """The choices of one visitor: adapters as (label, name), numbers of steps, example prompts."""

    adapters: list[tuple[str, str]]
    step_counts: range
    description: ModelDescription | None
    styles: int
    """Hash of the HTML with the pictures of adapters, which is long."""


def refresh_handler(service: ServiceWatch) -> Callable[..., Awaitable[Outputs]]:
    """Returns the handler of the news that adapters, or anything else of the service, changed."""

    async def refresh(shown: Choices | None, request: gr.Request) -> Outputs:
        """Returns the lists that have changed, and the notices.

        A chosen adapter that has gone stays chosen: the next image is not generated without it
        unasked, the server reports the missing adapter, and the choice is valid again when the
        file is back.
        """
        texts, state = request_texts(request), service.state
        lines = "".join(map(view.note, notices(state, texts)))
        if state.error is not None:
            return *(gr.skip(),) * 6, lines
        html = style_pictures(state)
        adapters = [(texts["none"], ""), *labels(usable_adapters(state))]
        choices = Choices(adapters, state.step_counts, state.description, hash(html))
        lists, steps, introduction, pictures = gr.skip(), gr.skip(), gr.skip(), gr.skip()
        # What the page was served with may be out of date already: the first news brings it all.
        if shown is None or choices.description != shown.description:
            introduction = about(choices.description)
        if shown is None or choices.styles != shown.styles:
            pictures = html
        shown = shown or Choices([], range(0), None, 0)
        if choices.adapters != shown.adapters:
            lists = gr.Dropdown(choices=choices.adapters)
        if choices.step_counts != shown.step_counts:
            counts = choices.step_counts
            options = [(step_label(n, counts, texts), n) for n in counts]
            steps = gr.Radio(choices=options, value=counts[-1])
        return lists, lists, steps, introduction, pictures, choices, lines

    return refresh


def notices(state: ServiceState, texts: Texts) -> list[str]:
    """Returns the lines below the controls: an error of the service, or warnings and bad files."""
    if state.error is not None:
        return [error_text(state.error, texts)]
    files = [
        texts["refused"].format(name=a.name, reason=a.refusal_reason.rstrip("."))
        for a in state.adapters
        if a.state is AdapterState.REFUSED
    ]
    files += [
        texts["held_newer" if a.usable else "held"].format(
            name=a.name, reason=a.waiting_reason.rstrip(".")
        )
        for a in state.adapters
        if a.waiting_reason
    ]
    warnings = [texts["warning"].format(text=text) for text in state.warnings]
    return warnings + (files if state.has_manager else [texts["unmanaged"], *files])


def usable_adapters(state: ServiceState) -> list[Adapter]:
    """Returns the adapters that a visitor may choose."""
    return [adapter for adapter in state.adapters if adapter.usable]


def style_pictures(state: ServiceState) -> str:
    """Returns the pictures of the adapters that a visitor may choose, as HTML."""
    usable = usable_adapters(state)
    return styles(zip((label for label, _ in labels(usable)), usable, strict=True))


def labels(adapters: Sequence[Adapter]) -> list[tuple[str, str]]:
    """Returns (label, name) of each adapter; the label includes the name where titles repeat."""
    titles = Counter(a.title for a in adapters)
    return [
        (a.title if titles[a.title] == 1 else f"{a.title} ({a.name})", a.name)
        if a.title
        else (a.name, a.name)
        for a in adapters
    ]


def step_label(count: int, counts: range, texts: Texts) -> str:
    """Returns a number of steps with its use: of four, three are a preview and two a draft."""
    full = counts[-1]
    uses = {full - 2: "draft", full - 1: "preview", 1: "rough", full: "production"}
    return f"{count} · {texts[uses[count]]}" if count in uses else str(count)
