"""What an adapter calls itself: title and trigger words, from a file's metadata.

Owns the metadata fields that trainers write for people, and how much of them is believed.
Everything here comes from strangers and ends in lists, logs and terminals.
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
"""Of one field, looked at before anything else."""


def read_title(metadata: Mapping[str, str]) -> str | None:
    """The first title the metadata holds, on one line; None if there is none."""
    for field in _TITLE_FIELDS:
        if title := visible(metadata.get(field, ""), MAX_TITLE_CHARACTERS):
            return title
    return None


def read_trigger_words(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Words the adapter was trained to answer to, in the file's order, each once."""
    for field in _TRIGGER_FIELDS:
        text = metadata.get(field, "")[:_MAX_FIELD_CHARACTERS]
        words = (visible(word, MAX_TRIGGER_WORD_CHARACTERS) for word in _listed(text))
        if unique := tuple(dict.fromkeys(filter(None, words))):
            return unique[:MAX_TRIGGER_WORDS]
    return ()


def _listed(text: str) -> list[str]:
    """A JSON list of strings, or words separated by commas."""
    if text.lstrip().startswith("["):
        try:
            words = json.loads(text)
        except (ValueError, RecursionError):
            words = None
        if isinstance(words, list):
            return [word for word in words if isinstance(word, str)]
    return text.split(",")
