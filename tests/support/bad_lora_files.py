"""One LoRA file of each kind that must be refused, with a pattern for the error.

`BAD_FILES` is made to be parametrised over: by the parser's tests, and by tests that follow an
error to a list or a log.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np

from tests.support.lora_files import (
    RawTensor,
    decode,
    encode,
    lora_tensors,
    make_lora,
    pack,
    pack_raw,
    peft_metadata,
)
from wuliart_lora.slot_layout import SegmentLayout


def _zip_pickle() -> bytes:
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"weights": [1.0]}))
    return stream.getvalue()


def _replaced(layout: SegmentLayout, index: int, tensor: RawTensor | None) -> bytes:
    """Returns a valid file in which the index-th tensor is replaced, or missing."""
    tensors = lora_tensors(layout)
    name = list(tensors)[index]
    if tensor is None:
        del tensors[name]
    else:
        tensors[name] = tensor
    return pack(tensors)


def _poisoned(layout: SegmentLayout, value: float, dtype: str) -> bytes:
    tensors = lora_tensors(layout, dtype=dtype)
    name = list(tensors)[3]
    _, shape, data = tensors[name]
    values = decode(data, dtype, shape).copy()
    values[-1, -1] = value
    tensors[name] = (dtype, shape, encode(values, dtype))
    return pack(tensors)


def _with(layout: SegmentLayout, *names: str) -> bytes:
    """Returns a valid file with further tensors of these names."""
    tensors = lora_tensors(layout)
    extra = {name: ("F32", (4, 4), encode(np.ones((4, 4)), "F32")) for name in names}
    return pack(tensors | extra)


def _header(**entries: object) -> bytes:
    return json.dumps(entries).encode()


def _entry(shape: Sequence[object], begin: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


_Q = "transformer.transformer_blocks.0.attn.to_q"


@dataclass(frozen=True)
class BadFile:
    """Bytes that must be refused; `reason` is a regular expression that the error matches."""

    make: Callable[[SegmentLayout], bytes]
    reason: str


BAD_FILES: Mapping[str, BadFile] = {
    "empty": BadFile(lambda _: b"", "empty"),
    "pickle": BadFile(lambda _: pickle.dumps({"w": list(range(99))}), "pickle.*never loaded"),
    "zipped_pickle": BadFile(lambda _: _zip_pickle(), "zip archive.*never loaded"),
    "gguf": BadFile(lambda _: b"GGUF" + bytes(60), "GGUF"),
    "web_page": BadFile(lambda _: b"<!DOCTYPE html><html>Sign in</html>", "web page"),
    "lfs_pointer": BadFile(
        lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"
    ),
    "text": BadFile(lambda _: b"this is not a LoRA, it only says so", "header of .* bytes"),
    "tiny": BadFile(lambda _: b"\x01\x02", "truncated"),
    "zeros": BadFile(lambda _: bytes(1 << 16), "begins with zeros"),
    "truncated": BadFile(
        lambda layout: make_lora(layout)[:-1000], r"truncated: [\d,]+ bytes expected, [\d,]+ found"
    ),
    "truncated_header": BadFile(lambda layout: make_lora(layout)[:100], "truncated: at least"),
    "trailing_bytes": BadFile(lambda layout: make_lora(layout) + bytes(7), "7 bytes follow"),
    "huge_header": BadFile(
        lambda _: pack_raw(b"{}", length=100 << 20), "header of 104,857,600 bytes"
    ),
    "deep_header": BadFile(lambda _: pack_raw(b'{"a":' + b"[" * 100_000), "not JSON"),
    "list_header": BadFile(lambda _: pack_raw(b'{"a": []}'), "entry of 'a'"),
    "many_tensors": BadFile(
        lambda _: pack_raw(
            json.dumps({f"t{n}": _entry([0], 0, 0) for n in range(20_001)}).encode()
        ),
        "20,001 tensors",
    ),
    "duplicate_keys": BadFile(
        lambda _: pack_raw(b'{"a": %b, "a": %b}' % ((json.dumps(_entry([1], 0, 4)).encode(),) * 2)),
        "'a' appears more than once",
    ),
    "overflowing_shape": BadFile(
        lambda _: pack_raw(_header(a=_entry([1 << 62, 1 << 62], 0, 4)), bytes(4)), "takes"
    ),
    "negative_shape": BadFile(lambda _: pack_raw(_header(a=_entry([-1], 0, 4)), bytes(4)), "shape"),
    "fractional_shape": BadFile(
        lambda _: pack_raw(_header(a=_entry([1.0], 0, 4)), bytes(4)), "shape"
    ),
    "backward_offsets": BadFile(
        lambda _: pack_raw(_header(a=_entry([1], 4, 0)), bytes(4)), "span -4"
    ),
    "overlap": BadFile(
        lambda _: pack_raw(_header(a=_entry([2], 0, 8), b=_entry([2], 4, 12)), bytes(12)), "overlap"
    ),
    "gap": BadFile(
        lambda _: pack_raw(_header(a=_entry([1], 0, 4), b=_entry([1], 8, 12)), bytes(12)), "gap"
    ),
    "fp4": BadFile(
        lambda _: pack_raw(_header(**{f"{_Q}.lora_A.weight": _entry([4], 0, 2, "F4")}), bytes(2)),
        "F4; convert",
    ),
    "float64": BadFile(
        lambda layout: pack(
            {
                name: ("F64", shape, encode(decode(data, "F32", shape), "F64"))
                for name, (_, shape, data) in lora_tensors(layout).items()
            }
        ),
        "F64; convert",
    ),
    "no_tensors": BadFile(lambda _: pack({}, {"title": "Nothing"}), "no LoRA weights"),
    "nan": BadFile(
        lambda layout: _poisoned(layout, np.nan, "F32"), r"'transformer\..*' holds values"
    ),
    "nan_bfloat16": BadFile(lambda layout: _poisoned(layout, np.nan, "BF16"), "not a number"),
    "inf_float16": BadFile(lambda layout: _poisoned(layout, -np.inf, "F16"), "infinite"),
    "nan_alpha": BadFile(
        lambda layout: make_lora(layout, convention="kohya", alpha=np.nan), "alpha is nan"
    ),
    "zero_alpha": BadFile(
        lambda layout: make_lora(layout, convention="kohya", alpha=0), "alpha is 0"
    ),
    "absurd_alpha": BadFile(
        lambda layout: make_lora(layout, convention="kohya", alpha=1e30), r"alpha is 1e\+30"
    ),
    "alpha_matrix": BadFile(
        lambda layout: _with(layout, f"{_Q}.alpha"), r"single number.*\[4, 4\]"
    ),
    "missing_down": BadFile(lambda layout: _replaced(layout, 0, None), "no down weights"),
    "missing_up": BadFile(lambda layout: _replaced(layout, 1, None), "no up weights"),
    "wrong_shape": BadFile(
        lambda layout: _replaced(layout, 0, ("F32", (4, 7), bytes(4 * 28))), r"\[4, 7\].*needs"
    ),
    "one_dimension": BadFile(
        lambda layout: _replaced(layout, 0, ("F32", (7,), bytes(28))), r"\[7\].*needs"
    ),
    "rank_zero": BadFile(lambda layout: make_lora(layout, rank=0), "rank 0"),
    "rank_too_large": BadFile(
        lambda layout: make_lora(layout, rank=layout.parameters.max_rank + 1),
        r"holds up to \d+; start it with --max-rank \d+",
    ),
    "zero_match": BadFile(
        lambda _: pack(
            {
                f"transformer.single_transformer_blocks.0.attn.to_q.lora_{half}.weight": (
                    "F32",
                    (4, 4),
                    bytes(64),
                )
                for half in "AB"
            }
        ),
        "modules whose names are not understood .*single_transformer_blocks.0.attn.to_q",
    ),
    "unknown_block": BadFile(
        lambda layout: _with(layout, "transformer.transformer_blocks.61.attn.to_q.lora_A.weight"),
        r"transformer_blocks\.61.*this model has \d+ blocks",
    ),
    "unknown_kohya_block": BadFile(
        lambda layout: _with(layout, "lora_unet_transformer_blocks_61_attn_to_q.lora_down.weight"),
        r"transformer_blocks\.61.*this model has \d+ blocks",
    ),
    "timestep_embedding": BadFile(
        lambda layout: _with(
            layout, "transformer.time_text_embed.timestep_embedder.linear_1.lora_A.weight"
        ),
        "folded.*into tables",
    ),
    "dora": BadFile(lambda layout: _with(layout, f"{_Q}.dora_scale"), "DoRA"),
    "peft_dora": BadFile(
        lambda layout: _with(layout, f"{_Q}.lora_magnitude_vector.default.weight"), "DoRA"
    ),
    "dora_metadata": BadFile(
        lambda layout: make_lora(
            layout,
            metadata={"lora_adapter_metadata": peft_metadata(r=4, lora_alpha=4, use_dora=True)},
        ),
        "use_dora",
    ),
    "loha": BadFile(
        lambda layout: _with(layout, "lycoris_transformer_blocks_0_attn_to_q.hada_w1_a"),
        "both LoRA and LoHa factors",
    ),
    "lokr": BadFile(lambda layout: _with(layout, f"{_Q}.lokr_w1"), "both LoRA and LoKr factors"),
    "diff": BadFile(lambda layout: _with(layout, "diffusion_model.img_in.diff"), "differences"),
    "diff_b": BadFile(
        lambda layout: _with(layout, "diffusion_model.img_in.diff_b"), "this model needs"
    ),
    "norm": BadFile(
        lambda layout: _with(layout, "transformer_blocks.0.attn.norm_q.diff_b"),
        "changes of a norm other than .diff|names are not understood",
    ),
    "lora_bias": BadFile(lambda layout: _with(layout, f"{_Q}.lora_B.bias"), "LoRA biases"),
    "text_encoder": BadFile(
        lambda layout: _with(layout, "text_encoder.layers.0.q_proj.lora_A.weight"), "text encoder"
    ),
    "kohya_text_encoder": BadFile(
        lambda layout: _with(layout, "lora_te_layers_0_q_proj.lora_down.weight"), "text encoder"
    ),
    "checkpoint": BadFile(lambda layout: _with(layout, f"{_Q}.weight"), "the whole weight"),
    "two_adapters_of_one_tensor": BadFile(
        lambda layout: _with(
            layout, "diffusion_model.transformer_blocks.0.attn.to_q.lora_A.weight"
        ),
        "both give the down weights",
    ),
}
"""Every kind of file that must be refused, whatever the layout it is parsed against."""
