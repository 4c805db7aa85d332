"""The page's layout: which controls there are, where they stand, and what handles their events."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import gradio as gr

from wuliart_contract.limits import MAX_ADAPTER_WEIGHT, MAX_PROMPT_CHARACTERS
from wuliart_web.clients import ClientFor
from wuliart_web.image_store import ImageStore
from wuliart_web.page.about import ABOUT
from wuliart_web.page.choices import refresh_handler
from wuliart_web.page.handlers import (
    generate_handler,
    random_seed,
    reset_after_stop,
    restore,
    welcome,
)
from wuliart_web.page.styles import STYLES
from wuliart_web.service_watch import NEWS, ServiceWatch
from wuliart_web.texts import I18N

ASSETS: Final = Path(__file__).parents[1] / "assets"

_QUIET: Final[dict[str, Any]] = {"show_progress": "hidden", "api_visibility": "undocumented"}

_MARK: Final = 'name => { window.dispatchEvent(new CustomEvent("style", { detail: name })); }'


def build(client_for: ClientFor, images: ImageStore, service: ServiceWatch) -> gr.Blocks:
    """Builds the page, not yet mounted.

    Args:
        client_for: returns the service's client for a request.
        images: keeps the finished images that the page shows.
        service: the service's adapters and step counts.
    """
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
                introduction = gr.HTML(
                    elem_id=ABOUT, apply_default_css=False, js_on_load=_script("about.js")
                )
                adapter, weight = _adapter_row(t("style"))
                pictures = gr.HTML(
                    elem_id=STYLES, apply_default_css=False, js_on_load=_script("styles.js")
                )
                generate = gr.Button(t("generate"), variant="primary", elem_id="generate")
                generating = gr.Button(
                    t("generating"), interactive=False, visible=False, elem_id="generating"
                )
                stop = gr.Button(t("stop"), variant="stop", visible=False, elem_id="stop")
                with gr.Accordion(t("more"), open=False):
                    second, second_weight = _adapter_row(t("second"))
                    with gr.Row(elem_id="seeds"):
                        seed = gr.Number(
                            value=random_seed,
                            label=t("seed"),
                            precision=0,
                            minimum=0,
                            maximum=2**53 - 1,  # the largest integer that JavaScript keeps exact
                            min_width=120,
                            scale=2,
                            elem_id="seed",
                        )
                        dice = gr.Button(t("dice"), size="md", min_width=90, elem_id="dice")
                        keep = gr.Checkbox(label=t("keep"), min_width=90, elem_id="keep")
                    counts = service.state.step_counts
                    steps = gr.Radio(
                        [(str(n), n) for n in counts],
                        value=counts[-1],
                        label=t("steps"),
                        elem_id="steps",
                    )
                notices = gr.HTML(elem_id="notices", js_on_load=_script("news.js", NEWS=NEWS))
            with gr.Column(scale=3, min_width=320):
                result = gr.HTML(elem_id="result")
                strip = gr.HTML(elem_id="strip", js_on_load=_script("strip.js"))
        # Kept for each session: the images of this visit, and the choices that its lists show.
        visit, shown_choices = gr.State([]), gr.State(None)

        page.load(welcome, None, result, **_QUIET)
        buttons = [generate, generating, stop]
        settings = [prompt, adapter, weight, second, second_weight, seed, keep, steps]
        running = generate.click(
            generate_handler(client_for, images),
            [*settings, visit],
            [result, *buttons, seed, strip, visit],
            concurrency_limit=None,
            show_progress="hidden",
        )
        stop.click(reset_after_stop, None, [result, *buttons], cancels=[running], **_QUIET)
        # A seed from the dice or the keyboard is locked: the next click uses it.
        dice.click(lambda: (random_seed(), True), None, [seed, keep], **_QUIET)
        seed.input(lambda: True, None, keep, **_QUIET)
        # In the browser alone: a picture sets the list, and the list marks the picture.
        pictures.choose(None, None, adapter, js="() => window.chosenStyle")
        adapter.change(None, adapter, None, js=_MARK)
        strip.restore(restore, visit, [result, *settings], **_QUIET)
        notices.news(
            refresh_handler(service),
            shown_choices,
            [adapter, second, steps, introduction, pictures, shown_choices, notices],
            concurrency_limit=None,
            **_QUIET,
        )
    return page


def _adapter_row(label: Any) -> tuple[gr.Dropdown, gr.Slider]:
    """A list of adapters and the weight beside it; the page calls adapters styles."""
    with gr.Row(elem_classes="style"):
        # Any name is accepted: the server reports one that no longer exists.
        choice = gr.Dropdown(
            [(I18N("none"), "")],
            value="",
            label=label,
            scale=2,
            min_width=150,
            allow_custom_value=True,
        )
        weight = gr.Slider(
            -MAX_ADAPTER_WEIGHT,
            MAX_ADAPTER_WEIGHT,
            1,
            step=0.05,
            label=I18N("weight"),
            min_width=150,
        )
    return choice, weight


def _script(name: str, **constants: str) -> str:
    """Returns a script of `assets` with its constants filled in."""
    text = (ASSETS / name).read_text(encoding="utf-8")
    for constant, value in constants.items():
        text = text.replace(constant, value)
    return text
