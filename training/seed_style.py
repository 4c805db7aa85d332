"""Writes the example style `loras/aurora.safetensors`: a rank-8 LoRA of the embedded model.

    .venv/bin/python training/seed_style.py [--out loras/aurora.safetensors]

Owns what the style does: words paint in upright curtains instead of patches, reds turn green
and the folds grow. Keys are diffusers' (`transformer.<module>.lora_A.weight`),
without alpha, so it counts with its full strength. Knows the plan of the residual dimensions
from seed_transformer; it never reads X, which would carry noise into the picture.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save
from seed_heads import COLUMNS, HEAD
from seed_numbers import coarse
from seed_transformer import ANCHOR, BLOCKS, HEADS, NORM, PLAN, WIDTH, A, N, P, PaintHead

SEED = 2512
RANK = 8
MLP = 4 * WIDTH
METADATA = {
    "format": "pt",
    "modelspec.title": "Aurora",
    "modelspec.trigger_phrase": "aurora",
    "modelspec.architecture": "qwen-image/lora",
    "modelspec.description": "Upright curtains of green and violet light.",
}
CURTAIN = 7.0
"""What the style adds to a query's column phases."""
TURN = torch.tensor(
    [
        # what one unit of red, green, blue paint adds to red, green, blue
        [-0.8, 0.4, 0.2],
        [-0.1, 0.2, 0.1],
        [0.1, 0.1, 0.0],
    ]
)

Pair = tuple[torch.Tensor, torch.Tensor]
"""lora_A [RANK, in] and lora_B [out, RANK]."""


def _reader(generator: torch.Generator) -> torch.Tensor:
    """A [RANK, WIDTH]: a constant, four mixes of N and three of P, each about unit size."""
    a = torch.zeros(RANK, WIDTH)
    a[0, A] = torch.tensor([1.0, -1.0]).repeat(32) * NORM / (64.0 * ANCHOR)
    a[1:5, N] = coarse(generator, 4, N.stop - N.start, std=NORM * (N.stop - N.start) ** -0.5)
    a[5:8, P] = coarse(generator, 3, P.stop - P.start, std=NORM * (P.stop - P.start) ** -0.5)
    return a


def _curtains(block: int, generator: torch.Generator) -> Pair:
    """to_q: paint heads look along columns, and N sways the curtains."""
    b = torch.zeros(WIDTH, RANK)
    for place, head in enumerate(PLAN[block]):
        if not isinstance(head, PaintHead):
            continue
        for pair, size in ((1, 0.8), (2, 1.0), (3, 0.6)):
            start = place * HEAD + 2 * (COLUMNS + pair)
            rows = slice(start, start + 2)
            b[rows, 0] = coarse(generator, 2, std=CURTAIN * size)
            b[rows, 1:5] = coarse(generator, 2, 4, std=0.25 * CURTAIN * size)
    return _reader(generator), b


def _turn_colours(block: int) -> Pair:
    """to_out.0: what a paint head wrote as red, green and blue is turned on its way into P."""
    a, b = torch.zeros(RANK, WIDTH), torch.zeros(WIDTH, RANK)
    for place, head in enumerate(PLAN[block]):
        if isinstance(head, PaintHead):
            for colour in range(3):
                a[colour, place * HEAD + colour] = 1.0
            start = P.start + 16 * head.group
            b[start : start + 3, :3] = TURN.T
    return a, b


def _grow_folds(generator: torch.Generator) -> tuple[Pair, Pair]:
    """The image MLP: stronger folds in, and tints of teal and violet out."""
    up = (_reader(generator), coarse(generator, MLP, RANK, std=0.35))
    a = coarse(generator, RANK, MLP, std=0.5 / 32.0)
    b = torch.zeros(WIDTH, RANK)
    b[P] = coarse(generator, P.stop - P.start, RANK, std=0.3)
    return up, (a, b)


def _seeded(generator: torch.Generator, rows: slice | None = None) -> Pair:
    """A small seeded change; of the outputs, only `rows` if given."""
    a = _reader(generator)
    b = coarse(generator, WIDTH, RANK, std=0.05)
    if rows is not None:
        kept = torch.zeros(WIDTH, 1)
        kept[rows] = 1.0
        b *= kept
    return a, b


def build_style(seed: int) -> dict[str, torch.Tensor]:
    """The style's tensors in bf16, by their diffusers key."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for block in range(BLOCKS):
        up, down = _grow_folds(generator)
        free = slice(8, WIDTH)  # text dimensions 0..7 hold colour and salience
        pairs = {
            "attn.to_q": _curtains(block, generator),
            "attn.to_k": _seeded(generator),
            "attn.to_v": _seeded(generator),
            "attn.to_out.0": _turn_colours(block),
            "attn.add_q_proj": _seeded(generator),
            "attn.add_k_proj": _seeded(generator),
            "attn.add_v_proj": _seeded(generator),
            "attn.to_add_out": _seeded(generator, free),
            "img_mlp.net.0.proj": up,
            "img_mlp.net.2": down,
        }
        for module, (a, b) in pairs.items():
            key = f"transformer.transformer_blocks.{block}.{module}"
            tensors[f"{key}.lora_A.weight"] = a.bfloat16()
            tensors[f"{key}.lora_B.weight"] = b.bfloat16()
    return tensors


def style_file(tensors: dict[str, torch.Tensor]) -> bytes:
    """The safetensors file with METADATA; the same bytes for the same tensors.

    The library writes metadata in an order that differs from run to run, so the header is
    written again with its keys sorted.
    """
    data = save(tensors, METADATA)
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def main() -> None:
    """Writes the style's file."""
    root = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description="Writes the example style of the embedded model.")
    parser.add_argument("--out", type=Path, default=root / "loras/aurora.safetensors")
    out: Path = parser.parse_args().out
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(style_file(build_style(SEED)))
    out.chmod(0o644)
    print(f"{out}: {out.stat().st_size / 1024:.0f} KiB, {len(PLAN)} blocks, {HEADS} heads")


if __name__ == "__main__":
    main()
