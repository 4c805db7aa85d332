"""What the page says under the prompt of a small model: what it knows, and example prompts.

The server describes such a model (`ModelDescription`); for all others the page says nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Final

from wuliart_client import ModelDescription, ModelIntroduction
from wuliart_web.texts import TEXTS_EN, TEXTS_ZH, Texts

ABOUT: Final = "about"
"""Id of the element."""

_EXAMPLES: Final = 6
"""Example prompts that are visible at once."""

_TEXTS: Final[Mapping[str, Texts]] = {"en": TEXTS_EN, "zh": TEXTS_ZH}


def about(description: ModelDescription | None) -> str:
    """Returns a model's introductions as HTML, all hidden; empty without a description.

    The browser shows the one in the visitor's language and fills its buttons (`about.js`).
    """
    if description is None:
        return ""
    return "".join(
        _introduction(each, _TEXTS[each.language])
        for each in description.introductions
        if each.language in _TEXTS
    )


def _introduction(introduction: ModelIntroduction, texts: Texts) -> str:
    prompts = escape(json.dumps(introduction.example_prompts, ensure_ascii=False))
    buttons = '<button type="button" class="example" hidden></button>' * _EXAMPLES
    return (
        f'<div lang="{introduction.language}" data-prompts="{prompts}" hidden>'
        f"<p>{escape(introduction.summary)} "
        f'<button type="button" class="others">{escape(texts["others"])}</button></p>'
        f'<div class="examples" role="group" aria-label="{escape(texts["examples"])}">'
        f"{buttons}</div></div>"
    )
