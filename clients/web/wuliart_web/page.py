"""The page: one box, one button, an image that sharpens in place.

Owns what stands where and what each control does. Every word is `words`', the HTML of the right
half `viewer`'s, what is shown while an image is generated `drawing`'s, adapters `adapters`'.
Nothing of a visitor is kept here: what one is shown lives in that one's session.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import gradio as gr

from wuliart_client import Adapter, AdapterState, AdapterWeight
from wuliart_contract.limits import MAX_ADAPTER_WEIGHT, MAX_PROMPT_CHARACTERS
from wuliart_web import failures, generation, viewer
from wuliart_web.adapters import NEWS, Adapters, Known
from wuliart_web.generation import Asked, Button, Drawn
from wuliart_web.images import Images
from wuliart_web.login import ClientFor
from wuliart_web.words import I18N, spoken

ASSETS: Final = Path(__file__).parent / "assets"
_FONT: Final = gr.themes.LocalFont("Source Sans Pro", weights=(400, 700))
"""As Gradio's own, without the weight 600, of which it brings a file with few letters."""
THEME: Final = gr.themes.Default(
    primary_hue="violet",
    neutral_hue="zinc",
    radius_size="lg",
    font=[_FONT, "ui-sans-serif", "system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
).set(
    # Dark enough to be read by everybody on the page's background.
    body_text_color_subdued="*neutral_500",
    body_text_color_subdued_dark="*neutral_400",
    button_primary_background_fill="*primary_600",
    button_primary_background_fill_hover="*primary_700",
    button_primary_background_fill_dark="*primary_600",
    button_primary_background_fill_hover_dark="*primary_700",
    button_cancel_background_fill="#dc2626",
    button_cancel_background_fill_hover="#b91c1c",
    button_cancel_background_fill_dark="#b91c1c",
    button_cancel_background_fill_hover_dark="#991b1b",
)
SEEDS: Final = 2**32
"""Seeds the dice throws; the field takes any up to 2**53 exactly, as browsers count."""
_QUIET: Final[dict[str, Any]] = {"show_progress": "hidden", "api_visibility": "undocumented"}


def build(client_for: ClientFor, images: Images, adapters: Adapters) -> gr.Blocks:
    """The page, not yet served."""
    t = I18N
    page: gr.Blocks
    with gr.Blocks(title="WuliArt Turbo", fill_width=True, analytics_enabled=False) as page:
        gr.HTML("<h1>WuliArt <span>Turbo</span></h1>", elem_id="name")
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=320):
                prompt = gr.Textbox(
                    label=t("prompt"),
                    placeholder=t("prompt_hint"),
                    lines=3,
                    max_lines=12,
                    max_length=MAX_PROMPT_CHARACTERS,
                    autofocus=True,
                    elem_id="prompt",
                )
                adapter, weight = _adapter(t("style"))
                draw = gr.Button(t("draw"), variant="primary", elem_id="draw")
                generating = gr.Button(
                    t("generating"), interactive=False, visible=False, elem_id="generating"
                )
                stop = gr.Button(t("stop"), variant="stop", visible=False, elem_id="stop")
                with gr.Accordion(t("more"), open=False):
                    second, second_weight = _adapter(t("second"))
                    with gr.Row(elem_id="seeds"):
                        seed = gr.Number(
                            value=_thrown,
                            label=t("seed"),
                            precision=0,
                            minimum=0,
                            maximum=2**53 - 1,
                            min_width=120,
                            scale=2,
                            elem_id="seed",
                        )
                        dice = gr.Button(t("dice"), size="md", min_width=90, elem_id="dice")
                        keep = gr.Checkbox(label=t("keep"), min_width=90, elem_id="keep")
                    steps = gr.Radio(
                        [(str(n), n) for n in adapters.known.counts],
                        value=adapters.known.counts[-1],
                        label=t("steps"),
                        elem_id="steps",
                    )
                notices = gr.HTML(elem_id="notices", js_on_load=_script("news.js", NEWS=NEWS))
            with gr.Column(scale=3, min_width=320):
                shown = gr.HTML(elem_id="shown")
                strip = gr.HTML(elem_id="strip", js_on_load=_script("strip.js"))
        visit, offered = gr.State([]), gr.State(None)

        page.load(_welcome, None, shown, **_QUIET)
        three = [draw, generating, stop]
        asked = [prompt, adapter, weight, second, second_weight, seed, keep, steps]
        drawing_one = draw.click(
            _drawing(client_for, images),
            [*asked, visit],
            [shown, *three, seed, strip, visit],
            concurrency_limit=None,
            show_progress="hidden",
        )
        stop.click(_stopped, None, [shown, *three], cancels=[drawing_one], **_QUIET)
        # Who throws the dice or writes a seed wants that one, not another with the next click.
        dice.click(lambda: (_thrown(), True), None, [seed, keep], **_QUIET)
        seed.input(lambda: True, None, keep, **_QUIET)
        strip.restore(_restored, visit, [shown, *asked], **_QUIET)
        notices.news(
            _look(adapters),
            offered,
            [adapter, second, steps, offered, notices],
            concurrency_limit=None,
            **_QUIET,
        )
    return page


def _adapter(label: Any) -> tuple[gr.Dropdown, gr.Slider]:
    """A list of adapters and the weight beside it."""
    with gr.Row(elem_classes="style"):
        # Any name may be asked for: one that is gone by then is told of by the server.
        choice = gr.Dropdown(
            [(I18N("none"), "")],
            value="",
            label=label,
            scale=2,
            min_width=150,
            allow_custom_value=True,
        )
        weight = gr.Slider(0, MAX_ADAPTER_WEIGHT, 1, step=0.05, label=I18N("weight"), min_width=150)
    return choice, weight


def _script(name: str, **constants: str) -> str:
    text = (ASSETS / name).read_text(encoding="utf-8")
    for constant, value in constants.items():
        text = text.replace(constant, value)
    return text


def _thrown() -> int:
    return random.randrange(SEEDS)


def _welcome(request: gr.Request) -> str:
    return _blank(_said(request), "empty")


def _blank(said: dict[str, str], key: str) -> str:
    """The right half without an image."""
    return viewer.view(said[key], viewer.note(said["here"]))


def _stopped(request: gr.Request) -> tuple[Any, ...]:
    return _blank(_said(request), "stopped"), *buttons(Button.DRAW)


def buttons(which: Button) -> list[Any]:
    """Of the three in their place, in `Button`'s order, the one that is there now."""
    return [gr.Button(visible=which is button) for button in Button]


def _drawing(client_for: ClientFor, images: Images) -> Any:
    async def draw(
        prompt: str,
        adapter: str | None,
        weight: float,
        second: str | None,
        second_weight: float,
        seed: int | None,
        keep: bool,
        steps: int,
        visit: list[Drawn],
        request: gr.Request,
    ) -> AsyncIterator[tuple[Any, ...]]:
        """Everything of one image that the page shows."""
        said = _said(request)
        if not prompt.strip():
            yield _blank(said, "empty"), *buttons(Button.DRAW), seed, gr.skip(), gr.skip()
            return
        chosen = ((adapter, weight), (second, second_weight))
        asked = Asked(
            prompt,
            seed if keep and seed is not None else _thrown(),
            steps,
            tuple(AdapterWeight(name, strength) for name, strength in chosen if name),
        )
        number = visit[0].number + 1 if visit else 0
        client = client_for(request.headers)
        async for now in generation.draw(client, images, asked, number, said):
            strip, kept = gr.skip(), gr.skip()
            if now.drawn is not None:
                kept = generation.kept(visit, now.drawn)
                strip = generation.strip(kept, said)
            yield now.html, *buttons(now.button), asked.seed, strip, kept

    return draw


def _restored(visit: list[Drawn], event: gr.EventData, request: gr.Request) -> tuple[Any, ...]:
    """An image of this visit again, and every control as it was; the seed is locked."""
    said = _said(request)
    number = getattr(event, "number", None)
    drawn = next((d for d in visit if d.number == number), None)
    if drawn is None:
        # It has left the strip, or the page was restarted since.
        return (gr.skip(),) * 9
    asked = drawn.asked
    line = said["again"].format(seed=asked.seed)
    adapters: list[Any] = [part for s in asked.adapters for part in (s.name, s.weight)]
    adapters += ["", 1] * (2 - len(asked.adapters))
    shown = generation.finished(drawn, line, said)
    return shown, asked.prompt, *adapters, asked.seed, True, asked.steps


class Offered(NamedTuple):
    """What one visitor's lists hold now: adapters as (label, name), and numbers of steps."""

    adapters: list[tuple[str, str]]
    counts: range


def _step_label(count: int, counts: range, said: dict[str, str]) -> str:
    """A number of steps, and what it is good for: of four, three are a preview, two a draft."""
    made_for = counts[-1]
    uses = {made_for - 2: "draft", made_for - 1: "preview", 1: "rough", made_for: "production"}
    return f"{count} · {said[uses[count]]}" if count in uses else str(count)


def _look(adapters: Adapters) -> Any:
    async def look(offered: Offered | None, request: gr.Request) -> tuple[Any, ...]:
        """The lists of adapters, if they have changed, and what there is to say of them.

        A chosen adapter that has gone stays chosen: an image without it would not be what was asked
        for, and the server says so; it comes back with its file.
        """
        said, known = _said(request), adapters.known
        notes = "".join(map(viewer.note, _notes(known, said)))
        if known.failure is not None:
            return gr.skip(), gr.skip(), gr.skip(), gr.skip(), notes
        usable = [a for a in known.adapters if a.usable]
        now = Offered([(said["none"], ""), *labelled(usable)], known.counts)
        before = offered or Offered([], range(0))
        adapter = (
            gr.skip() if now.adapters == before.adapters else gr.Dropdown(choices=now.adapters)
        )
        steps = gr.skip()
        if now.counts != before.counts:
            choices = [(_step_label(n, now.counts, said), n) for n in now.counts]
            steps = gr.Radio(choices=choices, value=now.counts[-1])
        return adapter, adapter, steps, now, notes

    return look


def _notes(known: Known, said: dict[str, str]) -> list[str]:
    if known.failure is not None:
        return [failures.told(known.failure, said)]
    refused = [
        said["refused"].format(name=a.name, reason=a.refusal_reason.rstrip("."))
        for a in known.adapters
        if a.state is AdapterState.REFUSED
    ]
    refused += [
        said["held_newer" if a.usable else "held"].format(
            name=a.name, reason=a.waiting_reason.rstrip(".")
        )
        for a in known.adapters
        if a.waiting_reason
    ]
    warnings = [said["warning"].format(text=text) for text in known.warnings]
    return warnings + (refused if known.managed else [said["unmanaged"], *refused])


def labelled(adapters: Sequence[Adapter]) -> list[tuple[str, str]]:
    """(what the list says, name) of each; the name is said where a title says too little."""
    titles = Counter(a.title for a in adapters)
    return [
        (a.title if titles[a.title] == 1 else f"{a.title} ({a.name})", a.name)
        if a.title
        else (a.name, a.name)
        for a in adapters
    ]


def _said(request: gr.Request) -> dict[str, str]:
    return spoken(request.headers.get("accept-language", ""))
