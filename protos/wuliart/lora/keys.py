"""Turns the tensor names that trainers write into (module path, role).

Owns the key styles found in the wild and the explanation of every name that is none of them.
Knows names only: no shapes, no values. Paths are those of diffusers' Qwen-Image transformer, and
the caller says which modules exist; underscored (kohya) names are looked up among these, never
guessed apart.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from enum import StrEnum
from typing import Final

from wuliart.lora.errors import LoraRefused, shown


class Role(StrEnum):
    """What a tensor is to its module."""

    DOWN = "down"
    UP = "up"
    ALPHA = "alpha"


_SUFFIXES: Final = (
    (".lora_A.weight", Role.DOWN),
    (".lora_B.weight", Role.UP),
    (".lora_down.weight", Role.DOWN),
    (".lora_up.weight", Role.UP),
    (".alpha", Role.ALPHA),
    # PEFT names the adapter when a whole model's state is saved; DiffSynth ships such files.
    (".lora_A.default.weight", Role.DOWN),
    (".lora_B.default.weight", Role.UP),
    # diffusers before PEFT.
    (".lora.down.weight", Role.DOWN),
    (".lora.up.weight", Role.UP),
)

_DOTTED_PREFIXES: Final = ("transformer.", "diffusion_model.", "base_model.", "model.")
"""Wrappers a trainer's module sat in; they nest (`base_model.model.transformer.`)."""

_FLAT_PREFIXES: Final = ("lora_unet_", "lora_transformer_", "lycoris_")
"""What kohya's scripts and their kin put before a path whose dots became underscores."""

_BLOCK: Final = re.compile(r"transformer_blocks[._](\d{1,6})[._]")

_PLAIN: Final = "only plain LoRA (A and B matrices) is understood"

_FOREIGN: Final = tuple(
    (re.compile(rf"\.(?:{tail})(?:\.|$)"), what)
    for tail, what in (
        ("dora_scale|lora_magnitude_vector", "DoRA magnitudes"),
        (r"hada_\w+", "LoHa factors"),
        (r"lokr_\w+", "LoKr factors"),
        (r"b?oft_\w+", "OFT rotations"),
        (r"(?:lora_[AB]|lora[_.](?:up|down))(?:\.default)?\.bias", "LoRA biases"),
        ("diff|diff_b|set_weight", "full weight differences"),
        ("lora_mid", "convolution factors"),
    )
)
"""Names that tell another method from plain LoRA. What they do to the weights is not a sum of
low-rank products, so dropping them would draw a wrong picture."""

_TEXT_ENCODER: Final = ("text_encoder", "text_model", "lora_te", "te_", "te1_", "te2_", "clip_")

_MAX_PROBLEMS: Final = 3
"""Kinds of problems a reason spells out."""

_Problem = tuple[str, str]
"""What the file holds, and why that cannot be used."""


def canonicalise(names: Iterable[str], modules: Collection[str]) -> dict[str, dict[Role, str]]:
    """Module path -> role -> the file's name for that tensor.

    `modules` are the paths that exist in the model. Raises `LoraRefused`, naming what was not
    understood, unless every name was, or if two names mean the same tensor.
    """
    flat = {path.replace(".", "_"): path for path in modules}
    found: dict[str, dict[Role, str]] = {}
    problems: dict[_Problem, list[str]] = {}
    blocks = _count_blocks(modules)
    for name in names:
        resolved = _resolve(name, modules, flat)
        if resolved is None:
            problems.setdefault(_problem(name, blocks), []).append(name)
            continue
        path, role = resolved
        roles = found.setdefault(path, {})
        if role in roles:
            raise LoraRefused(
                f"{shown(roles[role])!r} and {shown(name)!r} both give the {role} weights of "
                f"{path}; export the LoRA in one naming style"
            )
        roles[role] = name
    if problems:
        raise LoraRefused(_explain(problems))
    return found


def _split(name: str) -> tuple[str, Role] | None:
    for suffix, role in _SUFFIXES:
        if name.endswith(suffix):
            return name[: -len(suffix)], role
    return None


def _resolve(name: str, modules: Collection[str], flat: dict[str, str]) -> tuple[str, Role] | None:
    split = _split(name)
    if split is None:
        return None
    written, role = split
    path = _strip(written)
    if path in modules:
        return path, role
    for prefix in _FLAT_PREFIXES:
        if written.startswith(prefix) and (known := flat.get(written[len(prefix) :])):
            return known, role
    return None


def _strip(path: str) -> str:
    while True:
        for prefix in _DOTTED_PREFIXES:
            if path.startswith(prefix):
                path = path[len(prefix) :]
                break
        else:
            return path


def _count_blocks(modules: Iterable[str]) -> int:
    numbers = (int(match[1]) for match in map(_BLOCK.match, modules) if match)
    return 1 + max(numbers, default=-1)


def _problem(name: str, blocks: int) -> _Problem:
    """What is wrong with a name; names with the same problem share one explanation."""
    if _strip(name).startswith(_TEXT_ENCODER):
        return "text encoder weights", "only the transformer takes adapters here"
    for pattern, what in _FOREIGN:
        if pattern.search(name):
            return what, _PLAIN
    split = _split(name)
    if split is None:
        if name.endswith((".weight", ".bias")):
            return "whole weights", "that is a checkpoint, not a LoRA"
        return "tensors of no known kind", _PLAIN
    path = split[0]
    if "time_text_embed" in path:
        return (
            "changes of the timestep embedding",
            "this server has folded the timestep embedding into tables",
        )
    block = _BLOCK.search(path)
    if block and int(block[1]) >= blocks:
        return f"weights for transformer_blocks.{int(block[1])}", f"this model has {blocks} blocks"
    return "weights for modules of another model", "this model has no such module"


def _explain(problems: dict[_Problem, list[str]]) -> str:
    parts = [
        f"the file holds {what} ({len(names):,}, for example {shown(names[0])!r}), and {why}"
        for (what, why), names in list(problems.items())[:_MAX_PROBLEMS]
    ]
    return f"{'; '.join(parts)}; use a LoRA of this model's transformer, exported without these"
