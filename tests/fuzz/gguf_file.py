"""Fuzz target `gguf`: an untrusted GGUF file.

Any file gives tensors that lie in it and are read in the shape it states, or a `ModelError` whose
text can be shown.
"""

from __future__ import annotations

import math
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path

import torch

from inference_server.errors import ModelError
from inference_server.model.weights.gguf_file import GgufFile
from inference_server.model.weights.gguf_types import TYPES
from tests.support.gguf_files import encode, text

SHARED_MEMORY = Path("/dev/shm")
MAX_MESSAGE_CHARACTERS = 700
SMALL = (0, 1, 2, 3, 4, 8, 16, 32, 64, 256, 512)
SIZES = (*SMALL, *SMALL, 1 << 31, 1 << 32, 1 << 62, 1 << 63, (1 << 64) - 32, (1 << 64) - 1)
NAMES = (
    "img_in.weight",
    "transformer_blocks.0.attn.to_q.weight",
    "a",
    "b",
    "",
    "\u202e",
    "x" * 900,
)
FIELDS = (
    "general.architecture",
    "general.alignment",
    "general.file_type",
    "split.count",
    "split.no",
    "comfy.gguf.orig_shape.a",
    "comfy.gguf.orig_shape.img_in.weight",
    "tokenizer.ggml.tokens",
    "\x1b",
)
TEXTS = ("qwen_image", "qwen_image", "qwen2vl", "pig", "flux", "\x1b[2J", "", "y" * 3000)
SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "B",
    10: "Q",
    11: "q",
    12: "d",
}


def run(data: bytes) -> None:
    """Reads every tensor of the bytes as a file."""
    # With more threads, the coverage would depend on their order.
    torch.set_num_threads(1)
    path = SHARED_MEMORY / f"wuliart-fuzz-{os.getpid()}.gguf"
    path.write_bytes(data)
    try:
        _read(path, len(data))
    except ModelError as error:
        message = str(error)
        assert message.isprintable(), ascii(message)
        assert 0 < len(message) <= MAX_MESSAGE_CHARACTERS
        message.encode()
    finally:
        path.unlink()


def seeds() -> dict[str, bytes]:
    """Returns a small file of every type, and files with other metadata."""
    architecture = ("general.architecture", 8, text("qwen_image"))
    shape = ("comfy.gguf.orig_shape.a", 9, struct.pack("<IQ2i", 5, 2, 2, 128))
    tokens = ("tokens", 9, struct.pack("<IQ", 8, 2) + text("a") + text("b"))
    found = {
        f"type_{kind.name}": encode(
            [architecture], [("a", [256], number, 0)], bytes(256 // kind.elements * kind.nbytes)
        )
        for number, kind in TYPES.items()
    }
    return found | {
        "two": encode([architecture, tokens], [("a", [4], 0, 0), ("b", [4, 2], 1, 32)], bytes(48)),
        "shape": encode([architecture, shape], [("a", [256], 12, 0)], bytes(144)),
        "aligned": encode([("general.alignment", 4, b"\x08\0\0\0")], [], alignment=8),
        "version_2": encode([architecture], [], version=2),
        "other_type": encode([], [("a", [256], 23, 0)], bytes(256)),
        "part": encode([("split.count", 2, b"\3\0")], []),
    }


def vary(data: bytes, most: int, seed: int, vary_bytes: Callable[[bytes, int], bytes]) -> bytes:
    """Returns a variation of a file, or a new one whose structure is that of the format.

    Arguments as for `variation.vary`.
    """
    chance = random.Random(seed)
    if chance.random() < 0.5:
        return vary_bytes(data, most)
    fields = [_field(chance) for _ in range(chance.choice((0, 1, 1, 2, 3)))]
    tensors, at = [], 0
    for name in chance.choices(NAMES, k=chance.choice((0, 1, 1, 2, 3))):
        kind = chance.choice((*TYPES, *TYPES, 23, 99))
        sizes = [chance.choice(SIZES) for _ in range(chance.choice((0, 1, 1, 2, 2, 4, 9)))]
        if chance.random() < 0.7 and kind in TYPES:
            sizes = [TYPES[kind].elements * chance.choice((1, 1, 2)), chance.choice((1, 2))]
        tensors.append((name, sizes, kind, at if chance.random() < 0.8 else chance.choice(SIZES)))
        elements, nbytes = (TYPES[kind].elements, TYPES[kind].nbytes) if kind in TYPES else (1, 1)
        at += -(-math.prod(sizes) // elements * nbytes // 32) * 32
        at %= 1 << 64
    content = chance.randbytes(min(at, most)) if chance.random() < 0.5 else bytes(min(at, most))
    made = encode(fields, tensors, content, version=chance.choice((3, 3, 3, 2, 1, 1 << 24)))
    return (vary_bytes(made[:most], most) if chance.random() < 0.2 else made)[:most]


def _field(chance: random.Random) -> tuple[str, int, bytes]:
    name, kind = chance.choice(FIELDS), chance.choice((*SCALARS, 8, 8, 9, 9, 13))
    if kind == 8:
        return name, kind, text(chance.choice(TEXTS))
    if kind in SCALARS:
        return name, kind, chance.randbytes(struct.calcsize(SCALARS[kind]))
    items, count = chance.choice((5, 5, 4, 10, 8, 9, 6)), chance.choice((0, 1, 2, 2, 9, 1 << 40))
    values = b"".join(
        text("t") if items == 8 else struct.pack("<i", chance.choice((0, 1, 2, 4, 256, -1)))
        for _ in range(min(count, 9))
    )
    return name, kind, struct.pack("<IQ", items, count) + values


def _read(path: Path, size: int) -> None:
    with GgufFile(path.parent, path) as file:
        for text_ in file.metadata.values():
            text_.encode()
        for name in file.names:
            shape = file.shape(name)
            assert all(length > 0 for length in shape)
            # A block of the densest type has 256 elements in 84 bytes.
            assert math.prod(shape) <= 4 * size
            assert tuple(file.read(name).shape) == shape
            assert file.stored_as(name)
