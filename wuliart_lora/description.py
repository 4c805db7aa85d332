"""Title and trigger words of an adapter, from the metadata that trainers write.

The text is untrusted and ends in lists, logs and terminals: it is bounded in length and freed of
characters that cannot be seen. Metadata that is not understood is ignored; it never makes a file
unusable.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from wuliart_lora.errors import visible
from wuliart_lora.strict_json import parse_json

_TITLE_FIELDS: Final = ("modelspec.title", "title", "ss_output_name")

_TRIGGER_FIELDS: Final = ("trained_words", "modelspec.trigger_phrase", "trigger_words")
"""SimpleTuner writes the first two; the second is of the ModelSpec standard."""

_TAGS: Final = "ss_tag_frequency"
"""kohya's count of each tag by dataset. ai-toolkit puts the trigger word there, as the only tag of
the only dataset: {"1_word": {"word": 1}}."""

MAX_TITLE_CHARACTERS: Final = 120
MAX_TRIGGER_WORDS: Final = 32
MAX_TRIGGER_WORD_CHARACTERS: Final = 100

_MAX_FIELD_CHARACTERS: Final = 10_000
"""Characters of one field that are looked at. JSON that is longer is ignored; of a tag list that
long, the tags are not one."""

_MAX_VALUES: Final = 1_000
"""Values of one list that are looked at."""

_NONE: Final = frozenset({"", "None", "none", "null"})
"""Texts that mean none: kohya's trainers write Python's None as text."""

_COMMA: Final = re.compile("[,，]")
"""The ASCII and the Chinese comma."""


def read_title(metadata: Mapping[str, str]) -> str | None:
    """Returns the first title in the metadata on one line, None if there is none."""
    for field in _TITLE_FIELDS:
        text = metadata.get(field, "")
        if isinstance(_parsed(text), list | dict):
            continue
        if (title := visible(text, MAX_TITLE_CHARACTERS)) not in _NONE:
            return title
    return None


def read_trigger_words(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Returns the words that trigger the adapter, in the file's order, each once."""
    for field in _TRIGGER_FIELDS:
        if words := _cleaned(_listed(metadata.get(field, ""))):
            return words
    return _cleaned(_only_tag(metadata.get(_TAGS, "")))


def _cleaned(words: Iterator[str]) -> tuple[str, ...]:
    """Returns words that can be shown, each once, without empty ones."""
    shown = (visible(word, MAX_TRIGGER_WORD_CHARACTERS) for word in words)
    return tuple(dict.fromkeys(word for word in shown if word not in _NONE))[:MAX_TRIGGER_WORDS]


def _listed(text: str) -> Iterator[str]:
    """Yields the strings of a JSON list or string, or words separated by commas."""
    value = _parsed(text)
    if isinstance(value, list):
        yield from (word for word in value[:_MAX_VALUES] if isinstance(word, str))
    elif isinstance(value, str):
        yield from _COMMA.split(value, _MAX_VALUES)[:_MAX_VALUES]
    elif not isinstance(value, dict) and not _is_long_json(text):
        yield from _COMMA.split(text[:_MAX_FIELD_CHARACTERS], _MAX_VALUES)[:_MAX_VALUES]


def _only_tag(text: str) -> Iterator[str]:
    """Yields the tag if there is exactly one, in one dataset."""
    datasets = _parsed(text)
    if isinstance(datasets, dict) and len(datasets) == 1:
        [tags] = datasets.values()
        if isinstance(tags, dict) and len(tags) == 1:
            yield from tags


def _parsed(text: str) -> Any:
    """Returns the list, table or string that a text is as JSON, None if it is none."""
    if len(text) > _MAX_FIELD_CHARACTERS or not _begins_as_json(text):
        return None
    try:
        return parse_json(text)
    except (ValueError, RecursionError):
        return None


def _is_long_json(text: str) -> bool:
    """Returns True for a text that begins as JSON does and is too long to be parsed."""
    return len(text) > _MAX_FIELD_CHARACTERS and _begins_as_json(text)


def _begins_as_json(text: str) -> bool:
    return text.lstrip().startswith(("[", "{", '"'))
