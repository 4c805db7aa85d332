"""Why a tensor's name makes a file unusable, as sentences for users.

Other methods than LoRA, LoHa and LoKr are refused by their names: what they do to the weights is
not a sum of such products, or is not read here, and without it the image would be wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from wuliart_lora.errors import shown


class Problem(NamedTuple):
    """Content that cannot be used; tensors with the same problem share one explanation."""

    what: str
    why: str


TEXT_ENCODER: Final = Problem("text encoder weights", "only the transformer takes adapters here")
TIMESTEP_EMBEDDING: Final = Problem(
    "changes of the timestep embedding", "this server has folded the timestep embedding into tables"
)

WHOLE_DIFFERENCES: Final = Problem(
    "full weight differences",
    "a slot holds low-rank and Kronecker products, not matrices as large as the model's own",
)
CHANGED_NORMS: Final = Problem(
    "changes of a norm other than .diff", "a norm's weight has no product that could change it"
)

_UNDERSTOOD: Final = (
    "only LoRA (A and B matrices), LoHa (hada matrices) and LoKr (lokr matrices) are understood"
)

_METHODS: Final = tuple(
    (re.compile(rf"\.(?:{tail})(?:\.|$)"), Problem(what, why))
    for tail, what, why in (
        (
            "dora_scale|magnitude|lora_magnitude_vector",
            "DoRA magnitudes",
            "a DoRA rescales the model's own weights, which an adapter in a slot cannot",
        ),
        (
            r"(?:hada|lokr)_t\d",
            "factors in Tucker form",
            "these belong to convolutions, of which this model has none",
        ),
        (
            r"boft_\w+",
            "BOFT rotations",
            "BOFT rotates the model's own weights, which an adapter in a slot cannot",
        ),
        (
            r"oft_\w+",
            "OFT rotations",
            "OFT and BOFT rotate the model's own weights, which an adapter in a slot cannot",
        ),
        (
            r"(?:[ab][12]|bm)\.weight",
            "GLoRA factors",
            "a GLoRA multiplies the model's own weights, which an adapter in a slot cannot",
        ),
        (
            r"(?:lora_[AB]|lora[_.](?:up|down))(?:\.[^.]+)?\.bias",
            "LoRA biases",
            _UNDERSTOOD,
        ),
        ("lora_embedding_[AB]", "embedding factors", _UNDERSTOOD),
        ("set_weight", "whole weights", _UNDERSTOOD),
        ("lora_mid", "convolution factors", _UNDERSTOOD),
    )
)
"""Endings of tensors that belong to other methods."""

_BLOCK: Final = re.compile(r"transformer_blocks[._](\d{1,6})[._]")

_MAX_PROBLEMS: Final = 3
"""Kinds of problems that an error lists."""


def unknown_ending(name: str, whole: str | None) -> Problem:
    """Returns the problem of a name whose ending is that of no factor.

    Args:
        name: the tensor's.
        whole: "weight" or "bias" if the name is that of a layer's own parameter, else None.
    """
    for pattern, problem in _METHODS:
        if pattern.search(name):
            return problem
    if whole:
        return Problem(f"the whole {whole} of layers", _UNDERSTOOD)
    return Problem("tensors whose names are not understood", _UNDERSTOOD)


def count_blocks(modules: Iterable[str]) -> int:
    """Returns how many transformer blocks the model of these module paths has."""
    numbers = (int(match[1]) for match in map(_BLOCK.match, modules) if match)
    return 1 + max(numbers, default=-1)


def unknown_module(path: str, blocks: int) -> Problem:
    """Returns the problem of a factor for a path, as the file has it, that is no module's."""
    block = _BLOCK.search(path)
    if block and int(block[1]) >= blocks:
        return Problem(
            f"weights for transformer_blocks.{int(block[1])}", f"this model has {blocks} blocks"
        )
    return Problem(
        "weights of modules whose names are not understood", "this model has no such module"
    )


def explain(problems: Mapping[Problem, Sequence[str]]) -> str:
    """Returns the reason for a file's refusal: each kind of problem with its first tensor."""
    parts = [
        f"the file holds {what} ({len(names):,}, the first is {shown(names[0])!r}), and {why}"
        for (what, why), names in list(problems.items())[:_MAX_PROBLEMS]
    ]
    return f"{'; '.join(parts)}; use a LoRA of this model's transformer, exported without these"
