"""Title and trigger words of an adapter, from the metadata that trainers write.

The text is untrusted and ends in lists, logs and terminals: it is bounded in length and freed of
characters that cannot be seen.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from wuliart_lora.errors import visible

_TITLE_FIELDS: Final = ("modelspec.title", "title", "ss_output_name")
_TRIGGER_FIELDS: Final = ("modelspec.trigger_phrase", "trigger_words")

MAX_TITLE_CHARACTERS: Final = 120
MAX_TRIGGER_WORDS: Final = 32
MAX_TRIGGER_WORD_CHARACTERS: Final = 100

_MAX_FIELD_CHARACTERS: Final = 10_000
"""Characters of one field that are looked at."""


def read_title(metadata: Mapping[str, str]) -> str | None:
    """Returns the first title in the metadata on one line, None if there is none."""
    for field in _TITLE_FIELDS:
        if title := visible(metadata.get(field, ""), MAX_TITLE_CHARACTERS):
            return title
    return None


def read_trigger_words(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Returns the words that trigger the adapter, in the file's order, each once."""
    for field in _TRIGGER_FIELDS:
        text = metadata.get(field, "")[:_MAX_FIELD_CHARACTERS]
        words = (visible(word, MAX_TRIGGER_WORD_CHARACTERS) for word in _listed(text))
        if unique := tuple(dict.fromkeys(filter(None, words))):
            return unique[:MAX_TRIGGER_WORDS]
    return ()


def _listed(text: str) -> list[str]:
    """Splits a JSON list of strings, or words separated by commas."""
    if text.lstrip().startswith("["):
        try:
            words = json.loads(text)
        except (ValueError, RecursionError):
            words = None
        if isinstance(words, list):
            return [word for word in words if isinstance(word, str)]
    return text.split(",")
