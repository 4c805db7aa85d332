"""The page: one box, one button, a picture that sharpens in place.

Owns what stands where and what each control does. Every word is `words`', the HTML of the right
half `viewer`'s, finished pictures lie in `pictures`; drawing is the gRPC service's, asked through
the one client. Nothing of a visitor is kept here: what one is shown lives in that one's browser.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

import gradio as gr

from wuliart_client import (
    Adapter,
    AdapterState,
    AsyncClient,
    Completed,
    Event,
    Queued,
    Started,
    Step,
    Style,
    WuliArtError,
)
from wuliart_web import viewer
from wuliart_web.pictures import Pictures
from wuliart_web.words import I18N, spoken

ASSETS: Final = Path(__file__).parent / "assets"
SEEDS: Final = 2**32
"""Seeds the dice throws; the field takes any up to 2**53 exactly, as browsers count."""
STEPS: Final = 4
NO_STYLE: Final = ("—", "")
"""Shown and sent."""


def build(client: AsyncClient, pictures: Pictures) -> gr.Blocks:
    """The page, not yet served."""
    t = I18N
    page: gr.Blocks
    with gr.Blocks(title="WuliArt Turbo", fill_width=True, analytics_enabled=False) as page:
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=320):
                prompt = gr.Textbox(
                    label=t("prompt"), placeholder=t("prompt_hint"), lines=4, autofocus=True
                )
                with gr.Row():
                    style = _style_list(t("style"))
                    weight = gr.Slider(0, 2, 1, step=0.05, label=t("weight"), min_width=170)
                with gr.Row():
                    draw = gr.Button(t("draw"), variant="primary", size="lg", elem_id="draw")
                    stop = gr.Button(t("stop"), size="lg", visible=False, elem_id="stop")
                with gr.Accordion(t("more"), open=False):
                    with gr.Row():
                        second = _style_list(t("second"))
                        second_weight = gr.Slider(
                            0, 2, 1, step=0.05, label=t("weight"), min_width=170
                        )
                    with gr.Row():
                        seed = gr.Number(
                            value=lambda: random.randrange(SEEDS),
                            label=t("seed"),
                            precision=0,
                            minimum=0,
                            maximum=2**53 - 1,
                            min_width=120,
                        )
                        keep = gr.Checkbox(label=t("keep"), min_width=120)
                    steps = gr.Radio(
                        [(t(f"step_{n}"), n) for n in range(1, STEPS + 1)],
                        value=STEPS,
                        label=t("steps"),
                    )
                refused = gr.HTML(elem_classes="refused")
            with gr.Column(scale=3, min_width=320):
                shown = gr.HTML(elem_id="shown")

        asked = [prompt, style, weight, second, second_weight, seed, keep, steps]
        drawing = draw.click(
            _drawing(client, pictures),
            asked,
            [shown, draw, stop, seed],
            concurrency_limit=None,
            show_progress="hidden",
        )
        stop.click(_stopped, None, [shown, draw, stop], cancels=[drawing], show_progress="hidden")
        known = gr.State(None)
        look = _styles(client)
        seen = [style, second, known]
        page.load(_welcome, None, shown, show_progress="hidden")
        for every in (page.load, gr.Timer(1.0).tick):
            every(look, seen, [style, second, known, refused], show_progress="hidden")
    return page


def _style_list(label: Any) -> gr.Dropdown:
    # Any name may be asked for: one that is gone by then is told of by the server, in its words.
    return gr.Dropdown(
        [NO_STYLE], value="", label=label, scale=2, min_width=170, allow_custom_value=True
    )


def _welcome(request: gr.Request) -> str:
    return _blank(_said(request), "empty")


def _stopped(request: gr.Request) -> tuple[str, Any, Any]:
    return _blank(_said(request), "stopped"), *_buttons(idle=True)


def _drawing(client: AsyncClient, pictures: Pictures) -> Any:
    async def draw(
        prompt: str,
        style: str | None,
        weight: float,
        second: str | None,
        second_weight: float,
        seed: int | None,
        keep: bool,
        steps: int,
        request: gr.Request,
    ) -> AsyncIterator[tuple[Any, Any, Any, Any]]:
        """Every event of one picture as the right half shows it."""
        said = _said(request)
        if not prompt.strip():
            yield _blank(said, "empty"), *_buttons(idle=True), seed
            return
        if seed is None or not keep:
            seed = random.randrange(SEEDS)
        yield viewer.view(said["asking"], busy=True), *_buttons(idle=False), seed
        styles = [
            Style(name, strength)
            for name, strength in ((style, weight), (second, second_weight))
            if name
        ]
        began, ignored = time.monotonic(), 0
        try:
            stream = client.generate(prompt, seed=seed, steps=steps, styles=styles, preview=True)
            async with stream:
                async for event in stream:
                    if isinstance(event, Completed):
                        address = pictures.add(event.picture.data)
                        done = said["done"].format(seconds=time.monotonic() - began, seed=seed)
                        note = said["ignored"].format(count=ignored) if ignored else ""
                        html = viewer.view(
                            f"{done} {note}".strip(),
                            viewer.picture(address, prompt),
                            viewer.tools(address, said["save"], said["whole"]),
                        )
                        yield html, *_buttons(idle=True), seed
                    else:
                        if isinstance(event, Started):
                            ignored = event.prompt_tokens_ignored
                        yield _under_way(event, prompt, said), *_buttons(idle=False), seed
        except WuliArtError as error:
            yield viewer.view(error.message), *_buttons(idle=True), seed

    return draw


def _blank(said: dict[str, str], key: str) -> str:
    """The right half without a picture."""
    return viewer.view(said[key], viewer.note(said["here"]))


def _under_way(event: Event, prompt: str, said: dict[str, str]) -> str:
    """What is shown while a picture is drawn."""
    if isinstance(event, Queued):
        return viewer.view(said["waiting"].format(before=event.position), busy=True)
    if isinstance(event, Started):
        return viewer.view(said["started"].format(steps=event.steps), busy=True)
    assert isinstance(event, Step)
    key = "decoding" if event.step == event.total_steps else "stepped"
    line = said[key].format(step=event.step, steps=event.total_steps)
    return viewer.view(line, viewer.preview(event.preview, prompt), busy=True)


def _styles(client: AsyncClient) -> Any:
    async def look(
        style: str | None, second: str | None, known: Any, request: gr.Request
    ) -> tuple[Any, Any, Any, Any]:
        """The lists of styles, if they have changed; a chosen one that has gone is let go."""
        said = _said(request)
        try:
            found = await client.styles(timeout=2)
        except WuliArtError:
            return gr.skip(), gr.skip(), None, viewer.note(said["offline"])
        usable = [a for a in found if a.usable]
        choices = [NO_STYLE, *labelled(usable)]
        reasons = [_refusal(a, said) for a in found if a.state is AdapterState.REFUSED]
        now = [choices, reasons]
        if now == known:
            return gr.skip(), gr.skip(), gr.skip(), gr.skip()
        names = {a.name for a in usable}
        one, other = (
            gr.Dropdown(choices=choices, value=chosen if chosen in names else "")
            for chosen in (style, second)
        )
        return one, other, now, "".join(map(viewer.note, reasons))

    return look


def labelled(adapters: Sequence[Adapter]) -> list[tuple[str, str]]:
    """(what the list says, name) of each; the name is said where a title says too little."""
    titles = Counter(a.title for a in adapters)
    return [
        (a.title if titles[a.title] == 1 else f"{a.title} ({a.name})", a.name)
        if a.title
        else (a.name, a.name)
        for a in adapters
    ]


def _refusal(adapter: Adapter, said: dict[str, str]) -> str:
    return said["refused"].format(name=adapter.name, reason=adapter.refusal_reason)


def _buttons(idle: bool) -> tuple[Any, Any]:
    return gr.Button(visible=idle), gr.Button(visible=not idle)


def _said(request: gr.Request) -> dict[str, str]:
    return spoken(request.headers.get("accept-language", ""))
