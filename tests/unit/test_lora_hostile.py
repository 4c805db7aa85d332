"""Whatever the bytes, parsing ends in an adapter or in LoraError, within bounded memory."""

from __future__ import annotations

import json
import sys
import tracemalloc
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.lora_files import make_lora, module_features, pack, pack_raw, peft_metadata
from wuliart_lora import LoraAdapter, LoraError, parse_lora
from wuliart_lora.slot_layout import LayoutParameters, SegmentLayout

LAYOUT = SegmentLayout(LayoutParameters(1, 16, 32, 8, 8, 8, 4, 4, 8, "float32"))
MODULES = module_features(LAYOUT)
GOOD = make_lora(
    LAYOUT,
    rank=2,
    modules=["img_in", "transformer_blocks.0.attn.to_q", "norm_out.linear"],
    convention="kohya",
    metadata={
        "title": "Ink",
        "trigger_words": "a,b",
        "lora_adapter_metadata": peft_metadata(r=2, lora_alpha=1),
    },
)
SMALL = make_lora(LAYOUT, rank=2, modules=["img_in"])
HEADER_END = 8 + int.from_bytes(GOOD[:8], "little")

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
SIZES = st.integers(-2, 40) | st.sampled_from([1 << 31, 1 << 62, 1 << 63, 1 << 64, 1.5, True])
NAMES = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", "transformer.", "lora_unet_", "model.diffusion_model.", "lora_te_"]),
    st.sampled_from([*MODULES, *(path.replace(".", "_") for path in MODULES), "", "x.y"]),
    st.sampled_from([".lora_A.weight", ".lora_up.weight", ".alpha", ".dora_scale", ".diff", ""]),
)
ENTRIES = JSON | st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "F16", "I64", "F8_E4M3", "BOOL"]),
        "shape": st.lists(SIZES, max_size=3),
        "data_offsets": st.lists(SIZES, min_size=2, max_size=2),
    }
)


def parse(data: bytes) -> LoraAdapter | None:
    """The adapter, None if refused; anything else is the test's failure."""
    tracemalloc.start()
    try:
        adapter = parse_lora(data, MODULES, 8)
    except LoraError as refusal:
        assert refusal.reason.isprintable()
        adapter = None
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < (1 << 20) + 40 * len(data)
    return adapter


def test_the_file_that_is_mutated_is_good() -> None:
    assert parse(GOOD) is not None


@given(st.binary(max_size=400))
def test_arbitrary_bytes(data: bytes) -> None:
    assert parse(data) is None


@given(st.binary(max_size=200), st.integers(0, 300))
def test_arbitrary_header(header: bytes, length: int) -> None:
    parse(pack_raw(b"{" + header, length=length))


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(st.integers(0, len(GOOD) - 1), st.binary(max_size=4), st.integers(0, 4)),
        min_size=1,
        max_size=4,
    )
)
def test_mutated_file(edits: list[tuple[int, bytes, int]]) -> None:
    data = GOOD
    for at, replacement, removed in edits:
        data = data[:at] + replacement + data[at + removed :]
    parse(data)


@settings(max_examples=200)
@given(st.integers(8, HEADER_END - 1), st.characters(codec="latin-1"))
def test_mutated_header_of_the_same_length(at: int, character: str) -> None:
    parse(GOOD[:at] + character.encode("latin-1") + GOOD[at + 1 :])


@given(st.integers(0, len(GOOD) - 1))
def test_every_truncation_is_refused(length: int) -> None:
    assert parse(GOOD[:length]) is None


@settings(max_examples=60)
@given(st.dictionaries(NAMES | st.text(max_size=8), ENTRIES, max_size=5), st.binary(max_size=64))
def test_well_formed_json_of_any_content(header: dict[str, object], data: bytes) -> None:
    parse(pack_raw(json.dumps(header).encode(), data))


@settings(max_examples=60)
@given(st.dictionaries(st.sampled_from(["transformer.r", "lora_alpha", "r", "use_dora"]), JSON))
def test_any_peft_metadata(fields: dict[str, object]) -> None:
    notes = {"lora_adapter_metadata": json.dumps(fields)}
    parse(make_lora(LAYOUT, rank=2, modules=["img_in"], metadata=notes))


FIELDS = st.sampled_from(
    [
        "peft_type", "r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern",
        "init_lora_weights", "bias", "alpha", "network_alpha", "rank", "ss_network_alpha",
        "ss_network_module", "lora_adapter_metadata", "lora_config", "transformer.lora_alpha",
    ]
)  # fmt: skip


@settings(max_examples=100)
@given(st.dictionaries(FIELDS, JSON | st.text(max_size=20)))
def test_any_sidecar(fields: dict[str, object]) -> None:
    with suppress(LoraError):
        parse_lora(SMALL, MODULES, config=fields)


@settings(max_examples=100)
@given(st.dictionaries(FIELDS, JSON | st.text(max_size=20) | st.from_regex(r"[-+.0-9eE]{1,8}")))
def test_any_fields_in_the_header(fields: dict[str, object]) -> None:
    notes = {name: v if isinstance(v, str) else json.dumps(v) for name, v in fields.items()}
    parse(make_lora(LAYOUT, rank=2, modules=["img_in"], metadata=notes))


def test_values_nested_as_deeply_as_json_allows() -> None:
    for depth in range(sys.getrecursionlimit() - 200, sys.getrecursionlimit()):
        nested = "[" * depth + "]" * depth
        for notes in (
            {"lora_config": f'{{"r": {nested}, "lora_alpha": 4}}'},
            {"lora_config": f'{{"r": 2, "lora_alpha": 4, "peft_type": {nested}}}'},
            {"lora_config": f'{{"r": 2, "lora_alpha": 4, "init_lora_weights": {nested}}}'},
        ):
            parse(make_lora(LAYOUT, rank=2, modules=["img_in"], metadata=notes))
        parse(pack_raw(f'{{"__metadata__": {{"a": {nested}}}}}'.encode()))


@pytest.mark.parametrize("config", ["[" + "{}," * 5_000_000 + "1]", '{"r": 2,' + " " * (1 << 20)])
def test_a_configuration_of_megabytes_is_refused_unparsed(config: str) -> None:
    notes = {"peft_config": config}
    data = make_lora(LAYOUT, rank=2, modules=["img_in"], metadata=notes)
    tracemalloc.start()
    try:
        with pytest.raises(
            LoraError, match=r"'peft_config' .* characters and 1,048,576 is the lim"
        ):
            parse_lora(data, MODULES)
        assert tracemalloc.get_traced_memory()[1] < 6 * len(data)
    finally:
        tracemalloc.stop()


@given(st.text(max_size=200), st.text(max_size=200))
def test_any_description(title: str, words: str) -> None:
    data = make_lora(
        LAYOUT, rank=2, modules=["img_in"], metadata={"title": title, "trigger_words": words}
    )
    adapter = parse(data)
    assert adapter is not None
    for text in (adapter.title or "", *adapter.trigger_words):
        assert text == text.strip()
        assert text.isprintable()


def test_as_many_foreign_names_as_a_file_may_hold() -> None:
    names = [f"{'transformer.' * 8}transformer_blocks.{n}.x.lora_A.weight" for n in range(20_000)]
    with pytest.raises(LoraError, match=r"names are not understood \(.*the first is"):
        parse_lora(pack(dict.fromkeys(names, ("F32", (0,), b""))), MODULES, 8)
