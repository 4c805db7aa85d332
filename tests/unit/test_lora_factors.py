"""From bytes to factors: every key convention gives the expected ones, and metadata is checked."""

from __future__ import annotations

import json
import math
import time

import numpy as np
import pytest

from tests.support.lora_files import (
    CONVENTIONS,
    encode,
    lora_tensors,
    make_lora,
    module_features,
    pack,
    peft_metadata,
    truth,
)
from wuliart_lora import LoraAdapter, LoraError, parse_lora
from wuliart_lora.peft_config import Pattern
from wuliart_lora.slot_layout import LayoutParameters, SegmentLayout

LAYOUT = SegmentLayout(LayoutParameters(2, 64, 256, 64, 64, 48, 16, 10, 32, "float32"))
MODULES = module_features(LAYOUT)
Q = "transformer_blocks.0.attn.to_q"


def assert_means(adapter: LoraAdapter, deltas: dict[str, np.ndarray]) -> None:
    assert adapter.factors.keys() == deltas.keys()
    for module, delta in deltas.items():
        factors = adapter.factors[module]
        assert factors.down.dtype == factors.up.dtype == np.float32
        assert factors.down.shape == (factors.rank, delta.shape[1])
        np.testing.assert_allclose(factors.up @ factors.down, delta, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("alpha", [None, 3.0])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_every_convention(convention: str, alpha: float | None) -> None:
    data = make_lora(LAYOUT, convention=convention, alpha=alpha)
    adapter = parse_lora(data, MODULES, 32)
    assert adapter.rank == 4
    assert_means(adapter, truth(LAYOUT, convention=convention, alpha=alpha))


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("convention", ["peft", "kohya"])
def test_every_element_type(dtype: str, convention: str) -> None:
    data = make_lora(LAYOUT, dtype=dtype, convention=convention)
    assert_means(parse_lora(data, MODULES), truth(LAYOUT, dtype=dtype, convention=convention))


def test_ranks_may_differ_from_module_to_module() -> None:
    ranks = {module: 1 + number % 7 for number, module in enumerate(MODULES)}
    adapter = parse_lora(make_lora(LAYOUT, rank=ranks, convention="kohya"), MODULES, 7)
    assert adapter.rank == 7
    assert {module: factors.rank for module, factors in adapter.factors.items()} == ranks
    assert_means(adapter, truth(LAYOUT, rank=ranks, convention="kohya"))


def test_a_rank_error_names_the_largest_so_that_one_restart_is_enough() -> None:
    ranks = dict.fromkeys(MODULES, 40) | {Q: 128}
    with pytest.raises(LoraError, match=r"--max-rank 128"):
        parse_lora(make_lora(LAYOUT, rank=ranks), MODULES, 32)


def test_without_a_limit_any_rank_is_read() -> None:
    assert parse_lora(make_lora(LAYOUT, rank=100), MODULES).rank == 100


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F64", "I32", "I64"])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_alpha_in_every_form_trainers_write(dtype: str, shape: tuple[int, ...]) -> None:
    tensors = lora_tensors(LAYOUT, modules=[Q], convention="bare_alpha")
    tensors[f"{Q}.alpha"] = (dtype, shape, encode(np.array(12.0), dtype))
    adapter = parse_lora(pack(tensors), MODULES)
    assert_means(adapter, truth(LAYOUT, modules=[Q], convention="bare_alpha", alpha=12.0))


def test_a_few_modules_and_nothing_else() -> None:
    chosen = [Q, "norm_out.linear", "transformer_blocks.1.txt_mod.1"]
    adapter = parse_lora(make_lora(LAYOUT, modules=chosen), MODULES)
    assert list(adapter.factors) == chosen


def test_all_zero_weights_are_a_valid_if_idle_adapter() -> None:
    adapter = parse_lora(make_lora(LAYOUT, scale=0.0), MODULES)
    assert not any(factors.up.any() for factors in adapter.factors.values())


def test_modules_beyond_the_layouts_own_are_read() -> None:
    name = "time_text_embed.timestep_embedder.linear_1"
    tensors = {
        f"{name}.lora_A.weight": ("F32", (2, 256), bytes(2048)),
        f"{name}.lora_B.weight": ("F32", (64, 2), bytes(512)),
    }
    assert list(parse_lora(pack(tensors), {**MODULES, name: (256, 64)}).factors) == [name]


def test_a_scale_beyond_float32_is_refused() -> None:
    data = make_lora(LAYOUT, convention="kohya", alpha=1e6, scale=1e35)
    with pytest.raises(LoraError, match="exceeds the range"):
        parse_lora(data, MODULES)


@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_peft_metadata(prefix: str) -> None:
    fields = {
        "r": 4,
        "lora_alpha": 8,
        "alpha_pattern": {"attn.to_q": 2, "^transformer_blocks.1.attn.to_k": 1},
        "rank_pattern": {},
        "target_modules": ["to_q"],
        "use_dora": False,
        "init_lora_weights": "gaussian",
    }
    metadata = {"lora_adapter_metadata": peft_metadata(prefix, **fields)}
    adapter = parse_lora(make_lora(LAYOUT, metadata=metadata), MODULES)
    expected = truth(LAYOUT, alpha=8.0)
    for module, alpha in (
        (Q, 2.0),
        ("transformer_blocks.1.attn.to_q", 2.0),
        ("transformer_blocks.1.attn.to_k", 1.0),
    ):
        expected[module] = truth(LAYOUT, alpha=alpha)[module]
    assert_means(adapter, expected)


def test_rank_stabilised_scale() -> None:
    fields = {"r": 4, "lora_alpha": 6, "use_rslora": True}
    metadata = {"lora_adapter_metadata": peft_metadata(**fields)}
    adapter = parse_lora(make_lora(LAYOUT, metadata=metadata), MODULES)
    assert_means(adapter, truth(LAYOUT, alpha=6 / math.sqrt(4) * 4))


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1]", "not a JSON object"),
        (
            peft_metadata("text_encoder.", r=4, lora_alpha=4),
            "neither r nor lora_alpha of the transformer",
        ),
        (peft_metadata(r="four", lora_alpha=4), "r of .* is 'four' and should be a number"),
        (peft_metadata(r=4, lora_alpha=None), "lora_alpha of .* is empty"),
        (peft_metadata(r=4, lora_alpha=[4]), "lora_alpha of .* is a list and should be a number"),
        (peft_metadata(r=4, lora_alpha=float("nan")), "out of range"),
        (peft_metadata(r=4, lora_alpha=0), "alpha is 0"),
        (peft_metadata(r=8, lora_alpha=8), "gives rank 8 .* have rank 4"),
        (peft_metadata(r=4, lora_alpha=4, rank_pattern={"to_q": 5}), "gives rank 5"),
        (peft_metadata(r=4, lora_alpha=4, rank_pattern=[1]), "rank_pattern of .* is not a table"),
        (peft_metadata(r=4, lora_alpha=4, alpha_pattern={"(a+)+$": 1}), r"expression '\(a"),
        (peft_metadata(r=4, lora_alpha=4, use_qalora=True), "use_qalora"),
        (peft_metadata(r=4, lora_alpha=4, init_lora_weights="pissa_niter_4"), "pissa"),
    ],
)
def test_peft_metadata_that_cannot_be_followed(written: str, reason: str) -> None:
    data = make_lora(LAYOUT, metadata={"lora_adapter_metadata": written})
    with pytest.raises(LoraError, match=reason):
        parse_lora(data, MODULES)


def test_two_alphas_must_agree() -> None:
    agreed = {"lora_adapter_metadata": peft_metadata(r=4, lora_alpha=2)}
    data = make_lora(LAYOUT, convention="kohya", alpha=2.0, metadata=agreed)
    assert_means(parse_lora(data, MODULES), truth(LAYOUT, convention="kohya", alpha=2.0))
    data = make_lora(LAYOUT, convention="kohya", alpha=3.0, metadata=agreed)
    with pytest.raises(LoraError, match=r"scale of 0\.75 .*lora_adapter_metadata' one of 0\.5"):
        parse_lora(data, MODULES)


def test_title_and_trigger_words() -> None:
    metadata = {
        "ss_output_name": "wc_v2_final",
        "modelspec.title": "  Water\u202e\x1b[31mcolour\n水彩 👩\u200d🎨 ",
        "modelspec.trigger_phrase": "wtrclr, 水彩风格,, wtrclr , soft\tlight",
        "ss_tag_frequency": json.dumps({"img": {"cat": 9}}),
    }
    adapter = parse_lora(make_lora(LAYOUT, metadata=metadata), MODULES)
    assert adapter.title == "Water[31mcolour 水彩 👩🎨"
    assert adapter.trigger_words == ("wtrclr", "水彩风格", "soft light")


def test_title_falls_back_and_may_be_missing() -> None:
    named = make_lora(LAYOUT, metadata={"modelspec.title": "\u200b", "ss_output_name": "inky"})
    assert parse_lora(named, MODULES).title == "inky"
    bare = parse_lora(make_lora(LAYOUT), MODULES)
    assert (bare.title, bare.trigger_words) == (None, ())


def test_descriptions_are_bounded() -> None:
    metadata = {
        "title": "t" * 1_000_000,
        "trigger_words": json.dumps(["w" * 5000, 7, *map(str, range(50))])[:9000],
        "modelspec.trigger_phrase": json.dumps([str(number) for number in range(200)]),
    }
    adapter = parse_lora(make_lora(LAYOUT, metadata=metadata), MODULES)
    assert adapter.title == "t" * 119 + "…"
    assert adapter.trigger_words == tuple(map(str, range(32)))


def test_patterns_name_a_module_by_its_path_or_its_end_and_the_first_entry_counts() -> None:
    pattern = Pattern({"to_q": 1, "attn.to_q": 2, "^blocks.0.attn.to_k": 3, "to_k": 4, "o_v": 5})
    assert pattern.get("blocks.0.attn.to_q") == 1
    assert pattern.get("blocks.0.attn.to_k") == 3
    assert pattern.get("blocks.1.attn.to_k") == 4
    assert pattern.get("blocks.0.attn.to_v") is None
    assert pattern.get("to_k") == 4


def test_many_patterns_cost_no_more_than_their_number() -> None:
    """866 modules each compared with 150,000 entries took more than a minute."""
    pattern = Pattern({f"a.{n}": 4 for n in range(150_000)})
    paths = [f"transformer_blocks.{n}.attn.to_q" for n in range(2_000)]
    began = time.process_time()
    assert {pattern.get(path) for path in paths} == {None}
    assert time.process_time() - began < 10
