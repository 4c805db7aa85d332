"""The pictures of styles to choose from, and what their files say of them, as HTML.

The same for every visitor, so that it can be in the page as it is first served: lines are there in
each language and hidden, and the browser shows the one of the chosen style (`styles.js`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Final

from wuliart_client import Adapter
from wuliart_web.texts import TEXTS_EN, TEXTS_ZH, Texts
from wuliart_web.thumbnails import address

STYLES: Final = "styles"
"""The component's id."""

_TEXTS: Final[Mapping[str, Texts]] = {"en": TEXTS_EN, "zh": TEXTS_ZH}


def styles(labelled: Iterable[tuple[str, Adapter]]) -> str:
    """Returns a button for each usable adapter that has a thumbnail, and a line for each with more.

    Args:
        labelled: label and adapter, in the order of the list.
    """
    buttons, lines = [], []
    for label, adapter in labelled:
        name = escape(adapter.name)
        if adapter.thumbnail_hash:
            buttons.append(
                f'<button type="button" data-name="{name}" title="{escape(label)}" '
                f'aria-pressed="false"><img src="{address(adapter.thumbnail_hash)}" alt="" '
                f'loading="lazy"><span>{escape(label)}</span></button>'
            )
        for language, texts in _TEXTS.items():
            if text := _facts(adapter, texts):
                lines.append(f'<p data-name="{name}" lang="{language}" hidden>{escape(text)}</p>')
    labels = " ".join(f'data-{each}="{escape(texts["styles"])}"' for each, texts in _TEXTS.items())
    group = f'<div class="styles" role="group" {labels}>{"".join(buttons)}</div>'
    return (group if buttons else "") + "".join(lines)


def _facts(adapter: Adapter, texts: Texts) -> str:
    facts = []
    if adapter.trigger_words:
        facts.append(texts["words"].format(words=", ".join(adapter.trigger_words)))
    facts += [texts["note"].format(note=note.rstrip(".")) for note in adapter.notes]
    return " ".join(facts)
