"""The page's theme: Gradio's default with this project's colours and fonts."""

from __future__ import annotations

from typing import Final

import gradio as gr

_FONT: Final = gr.themes.LocalFont("Source Sans Pro", weights=(400, 700))
"""Gradio's own font without weight 600, whose bundled file has only a few letters."""

THEME: Final = gr.themes.Default(
    primary_hue="violet",
    neutral_hue="zinc",
    radius_size="lg",
    font=[_FONT, "ui-sans-serif", "system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
).set(
    # Dark enough for WCAG's contrast on the page's background.
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
