"""Varies LoRA files by structure: names, types, shapes, and offsets of the header.

Random changes of bytes would rarely get there, because a header must stay valid JSON and its
offsets must fit.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from tests.support.lora_files import CONVENTIONS, module_features, pack_raw
from wuliart_lora.slot_layout import LayoutParameters, SegmentLayout

DTYPES = ("F32", "F16", "BF16", "F64", "I32", "I64", "F8_E4M3", "F8_E5M2", "BOOL", 7, None)
ELEMENT_BYTES = {"F8_E4M3": 1, "F8_E5M2": 1, "F16": 2, "BF16": 2, "F64": 8, "I64": 8}
"""Of types that have not 4."""
SIZES = (0, 1, 2, 3, 4, 8, -1, 1 << 31, 1 << 62, 1 << 63, 1 << 64, 1.5, True, "4", None, [])
LAYOUT = SegmentLayout(LayoutParameters(1, 4, 8, 2, 2, 3, 2, 2, 4, "float32"))
MODULES = [*module_features(LAYOUT), *LAYOUT.norms]
PREFIXES = (
    "transformer.",
    "base_model.model.",
    "lora_te_",
    "text_encoder.",
    "",
    "lycoris_",
    "\u202e",
)
ENDINGS = (
    ".alpha",
    ".dora_scale",
    ".hada_w1_a",
    ".hada_w1_b",
    ".hada_w2_a",
    ".hada_w2_b",
    ".hada_t1",
    ".lokr_w1",
    ".lokr_w1_a",
    ".lokr_w1_b",
    ".lokr_w2",
    ".lokr_w2_a",
    ".lokr_w2_b",
    ".lokr_t2",
    ".diff",
    ".diff_b",
    ".lora_mid.weight",
    ".bias",
    "",
)
NOTES = ("title", "modelspec.title", "trigger_words", "lora_adapter_metadata", "ss_output_name")
TEXTS = (
    "", "a,b,c", '["a", 1, null]', "[" * 2000, '{"r": 2}',
    '{"transformer.r": 2, "transformer.x": 1}',
    '{"r": NaN, "lora_alpha": Infinity}', '{"r": 2, "rank_pattern": {"img_in": 1, "(a+)+$": 2}}',
    '{"r": 2, "use_rslora": 1, "lora_alpha": 1e-300}', '{"r": 2, "init_lora_weights": [[]]}',
    '{"r": true}', "\u202e" * 300, "x" * 20000,
    '{"r": 2, "alpha_pattern": {"^img_in": -1}}', "null",
)  # fmt: skip


class Pairs(list[tuple[str, Any]]):
    """A JSON object as ordered pairs, which keeps duplicate names."""


def vary(data: bytes, most: int, seed: int, vary_bytes: Callable[[bytes, int], bytes]) -> bytes:
    """Returns a variation of a file.

    Args:
        data: The file.
        most: Maximum size of the result in bytes.
        seed: Seed of the changes.
        vary_bytes: libFuzzer's own mutation of bytes.
    """
    chance = random.Random(seed)
    header = _header(data)
    if header is None or chance.random() < 0.3:
        return vary_bytes(data, most)
    buffer = data[8 + int.from_bytes(data[:8], "little") :]
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        chance.choice(_CHANGES)(header, chance)
    if chance.random() < 0.4:
        buffer = _fitted(header, buffer)
    if chance.random() < 0.2:
        buffer = vary_bytes(buffer, most)
    return pack_raw(_written(header).encode("utf-8", "surrogatepass"), buffer)[:most]


def vary_names(
    data: bytes, most: int, seed: int, vary_bytes: Callable[[bytes, int], bytes]
) -> bytes:
    """Returns a variation of a list of names, one per line; arguments as for `vary`."""
    chance = random.Random(seed)
    if chance.random() < 0.4:
        return vary_bytes(data, most)
    lines = data.split(b"\n")
    for _ in range(chance.choice((1, 1, 2))):
        at = chance.randrange(len(lines))
        # Replaces a line or is inserted before it.
        lines[at : at + chance.randrange(2)] = [_name(chance).encode()]
    return b"\n".join(lines)[:most]


def _header(data: bytes) -> Pairs | None:
    length = int.from_bytes(data[:8], "little")
    if length > len(data):
        return None
    try:
        header = json.loads(data[8 : 8 + length], object_pairs_hook=Pairs)
    except (ValueError, RecursionError):
        return None
    return header if isinstance(header, Pairs) and header else None


def _written(value: Any) -> str:
    if isinstance(value, Pairs):
        return "{" + ",".join(f"{json.dumps(k)}:{_written(v)}" for k, v in value) + "}"
    return json.dumps(value)


def _fitted(header: Pairs, buffer: bytes) -> bytes:
    """Sets offsets that fit the shapes; returns a buffer that fits the offsets."""
    at = 0
    for _, entry in header:
        fields = dict(entry) if isinstance(entry, Pairs) else {}
        shape = fields.get("shape")
        if not isinstance(shape, list) or not all(type(n) is int and 0 <= n < 64 for n in shape):
            continue
        count = ELEMENT_BYTES.get(str(fields.get("dtype")), 4)
        for size in shape:
            count *= size
        _put(entry, "data_offsets", [at, at + count])
        at += count
    return (buffer * (1 + at // max(1, len(buffer))))[: min(at, 1 << 16)].ljust(
        min(at, 1 << 16), b"\0"
    )


def _put(entry: Any, field: str, value: Any) -> None:
    if isinstance(entry, Pairs):
        entry[:] = [(k, value if k == field else v) for k, v in entry]


def _name(chance: random.Random) -> str:
    module = chance.choice((*MODULES, "transformer_blocks.99.attn.to_q", "time_text_embed.x", ""))
    adapter = chance.choice(list(CONVENTIONS.values()))
    pattern = chance.choice((adapter.down, adapter.up, adapter.alpha or adapter.up))
    name = pattern.format(m=module, f=module.replace(".", "_"))
    if chance.random() < 0.2:
        name = chance.choice(PREFIXES) + name
    return name if chance.random() < 0.8 else module + chance.choice(ENDINGS)


def _rename(header: Pairs, chance: random.Random) -> None:
    at = chance.randrange(len(header))
    header[at] = (_name(chance), header[at][1])


def _change_type(header: Pairs, chance: random.Random) -> None:
    _put(chance.choice(header)[1], "dtype", chance.choice(DTYPES))


def _change_sizes(header: Pairs, chance: random.Random) -> None:
    field = chance.choice(("shape", "data_offsets"))
    sizes = [chance.choice(SIZES) for _ in range(chance.choice((0, 1, 2, 2, 2, 3, 9)))]
    _put(chance.choice(header)[1], field, sizes)


def _change_size(header: Pairs, chance: random.Random) -> None:
    entry = chance.choice(header)[1]
    old = dict(entry).get("shape") if isinstance(entry, Pairs) else None
    if isinstance(old, list) and old:
        new = list(old)
        new[chance.randrange(len(new))] = chance.choice((1, 2, 3, 4, 0, 5))
        _put(entry, "shape", new)


def _repeat(header: Pairs, chance: random.Random) -> None:
    if len(header) < 100:
        header.insert(chance.randrange(len(header)), chance.choice(header))


def _add(header: Pairs, chance: random.Random) -> None:
    shape = chance.choice(([], [1], [2, 4], [4, 2], [0], [0, 4]))
    entry = Pairs([("dtype", "F32"), ("shape", shape), ("data_offsets", [0, 0])])
    header.insert(chance.randrange(len(header) + 1), (_name(chance), entry))


def _remove(header: Pairs, chance: random.Random) -> None:
    if len(header) > 1:
        del header[chance.randrange(len(header))]


def _swap(header: Pairs, chance: random.Random) -> None:
    a, b = chance.randrange(len(header)), chance.randrange(len(header))
    (first, one), (second, other) = header[a], header[b]
    header[a], header[b] = (first, other), (second, one)


def _note(header: Pairs, chance: random.Random) -> None:
    notes = Pairs(
        (chance.choice(NOTES), chance.choice(TEXTS)) for _ in range(chance.choice((1, 1, 3)))
    )
    header[:] = [("__metadata__", notes), *((k, v) for k, v in header if k != "__metadata__")]


def _replace(header: Pairs, chance: random.Random) -> None:
    at = chance.randrange(len(header))
    header[at] = (header[at][0], chance.choice((None, [], 1, "x", Pairs(), [[]] * 50)))


_CHANGES = (
    _rename, _rename, _change_type, _change_sizes, _change_size, _repeat, _add, _add, _remove,
    _swap, _note, _note, _replace,
)  # fmt: skip
