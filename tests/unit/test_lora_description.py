"""Titles and trigger words as each trainer writes them, and hostile metadata."""

from __future__ import annotations

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.lora_files import make_lora, module_features
from wuliart_lora import parse_lora
from wuliart_lora.description import (
    MAX_TITLE_CHARACTERS,
    MAX_TRIGGER_WORD_CHARACTERS,
    MAX_TRIGGER_WORDS,
    read_title,
    read_trigger_words,
)
from wuliart_lora.slot_layout import LayoutParameters, SegmentLayout

LAYOUT = SegmentLayout(LayoutParameters(1, 16, 32, 8, 8, 8, 4, 4, 8, "float32"))
FIELDS = (
    "modelspec.title", "title", "ss_output_name",
    "trained_words", "modelspec.trigger_phrase", "trigger_words", "ss_tag_frequency",
)  # fmt: skip


def tags(**datasets: dict[str, int]) -> str:
    return json.dumps(datasets)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"trained_words": '["inkwash", "soft light"]'}, ("inkwash", "soft light")),
        ({"trained_words": '["ink, wash"]'}, ("ink, wash",)),
        ({"trained_words": '"inkwash"'}, ("inkwash",)),
        ({"trained_words": '"inkwash, soft"'}, ("inkwash", "soft")),
        ({"trained_words": "inkwash, soft light"}, ("inkwash", "soft light")),
        ({"trained_words": "水墨，留白"}, ("水墨", "留白")),
        ({"trained_words": "[ink] wash"}, ("[ink] wash",)),
        ({"modelspec.trigger_phrase": "inkwash"}, ("inkwash",)),
        ({"ss_tag_frequency": tags(**{"1_inkwash": {"inkwash": 1}})}, ("inkwash",)),
        ({"ss_tag_frequency": tags(**{"1_ink": {"ink wash, soft": 9}})}, ("ink wash, soft",)),
        ({"trained_words": '["a"]', "modelspec.trigger_phrase": "b"}, ("a",)),
        ({"modelspec.trigger_phrase": "b", "ss_tag_frequency": tags(c={"c": 1})}, ("b",)),
        ({"trained_words": "None", "modelspec.trigger_phrase": "b"}, ("b",)),
        ({"trained_words": "[]", "ss_tag_frequency": tags(c={"c": 1})}, ("c",)),
        ({"trained_words": "null"}, ()),
        ({"trained_words": "[null, 1, [], {}]"}, ()),
        ({"trained_words": '{"ink": 1}'}, ()),
        ({"ss_tag_frequency": tags(one={"a": 1, "b": 1})}, ()),
        ({"ss_tag_frequency": tags(one={"a": 1}, two={"a": 1})}, ()),
        ({"ss_tag_frequency": '{"one": {"a": 1, "a": 2}}'}, ()),
        ({"ss_tag_frequency": tags(one={})}, ()),
        ({"ss_tag_frequency": "{}"}, ()),
        ({"ss_tag_frequency": '{"one": ["a"]}'}, ()),
        ({"ss_tag_frequency": "ink"}, ()),
    ],
)
def test_trigger_words(metadata: dict[str, str], words: tuple[str, ...]) -> None:
    assert read_trigger_words(metadata) == words


@pytest.mark.parametrize(
    ("metadata", "title"),
    [
        ({"modelspec.title": "Ink", "ss_output_name": "ink_v2"}, "Ink"),
        ({"ss_output_name": "ink_v2"}, "ink_v2"),
        ({"modelspec.title": "None", "ss_output_name": "ink_v2"}, "ink_v2"),
        ({"modelspec.title": " \u200b", "ss_output_name": "ink_v2"}, "ink_v2"),
        ({"modelspec.title": '["Ink"]', "ss_output_name": "ink_v2"}, "ink_v2"),
        ({"modelspec.title": "[Qwen] Ink"}, "[Qwen] Ink"),
        ({"ss_output_name": "null"}, None),
        ({}, None),
    ],
)
def test_title(metadata: dict[str, str], title: str | None) -> None:
    assert read_title(metadata) == title


def test_values_that_are_json_instead_of_text_are_read_from_a_file() -> None:
    """Some writers put lists and tables where the format allows text alone, and null for none."""
    metadata = {"trained_words": None, "ss_tag_frequency": {"1_ink": {"ink": 1}}, "title": ["a"]}
    data = make_lora(LAYOUT, rank=2, modules=["img_in"], metadata=metadata)
    adapter = parse_lora(data, module_features(LAYOUT))
    assert (adapter.title, adapter.trigger_words) == (None, ("ink",))


def test_long_json_is_ignored_and_long_text_is_cut() -> None:
    many = [f"word {n}" for n in range(10_000)]
    assert read_trigger_words({"trained_words": json.dumps(many)}) == ()
    assert read_trigger_words({"trained_words": ",".join(many)}) == tuple(many[:32])
    assert read_trigger_words({"trained_words": json.dumps(many[:500])}) == tuple(many[:32])
    assert read_trigger_words({"ss_tag_frequency": tags(one={"a" * 20_000: 1})}) == ()


def test_tens_of_megabytes_cost_next_to_nothing() -> None:
    hostile = {
        "modelspec.title": '["' + "a" * 20_000_000,
        "title": "\u202e" * 20_000_000,
        "trained_words": "," * 20_000_000,
        "modelspec.trigger_phrase": "[" * 20_000_000,
        "ss_tag_frequency": '{"a":' * 4_000_000,
    }
    tracemalloc.start()
    try:
        read_title(hostile), read_trigger_words(hostile)
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()


CHARACTERS = st.one_of(
    st.characters(codec=None),
    st.sampled_from(
        '\x00\x1b\n\r\u2028\u202e\u2066\u200f\u200b\ufeff\ud800\U000e0041<>&"\\,，[]{}'
    ),
)
WORDS = st.text(CHARACTERS, max_size=300)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=50) | st.dictionaries(WORDS, inner, max_size=2),
    max_leaves=60,
)
NESTED = st.builds(
    lambda opening, inside, depth: opening * depth + inside,
    st.sampled_from(["[", '{"a":', '["', '"[']),
    WORDS,
    st.integers(1, 5_000),
)
VALUES = st.one_of(
    WORDS,
    JSON.map(json.dumps),
    JSON.map(lambda value: json.dumps(value, ensure_ascii=False)),
    JSON.map(lambda value: json.dumps(value)[:-1]),
    st.dictionaries(WORDS, st.dictionaries(WORDS, JSON, max_size=1), max_size=1).map(json.dumps),
    NESTED,
)


@given(st.dictionaries(st.sampled_from(FIELDS), VALUES))
def test_any_metadata_is_bounded_and_can_be_shown(metadata: dict[str, str]) -> None:
    title, words = read_title(metadata), read_trigger_words(metadata)
    assert title is None or 0 < len(title) <= MAX_TITLE_CHARACTERS
    assert len(set(words)) == len(words) <= MAX_TRIGGER_WORDS
    assert all(0 < len(word) <= MAX_TRIGGER_WORD_CHARACTERS for word in words)
    for text in (title or "", *words):
        assert text.isprintable() and text == text.strip()
        text.encode("utf-8")  # raises for a lone surrogate


@given(st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_any_metadata_leaves_the_file_usable(metadata: dict[str, object]) -> None:
    data = make_lora(LAYOUT, rank=2, modules=["img_in"], metadata=metadata)
    assert list(parse_lora(data, module_features(LAYOUT)).factors) == ["img_in"]
