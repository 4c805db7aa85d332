"""Maps the tensor names that trainers write to module paths and roles.

Paths are those of diffusers' Qwen-Image transformer. Underscored (kohya) names are looked up among
the model's modules and never split by guess. A name that follows no known convention is an error
that says which one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from enum import StrEnum
from typing import Final, NamedTuple

from wuliart_lora.errors import LoraError, shown


class Role(StrEnum):
    """The role of a tensor in its module."""

    DOWN = "down"
    UP = "up"
    ALPHA = "alpha"


_TENSOR: Final = re.compile(
    # PEFT names the adapter when a whole model's state is saved; DiffSynth ships such files.
    r"\.lora_(?P<factor>A|B|down|up)(?:\.(?P<adapter>[^.]+))?\.weight$"
    # diffusers before PEFT, which put the layers into the attention's processor.
    r"|(?:\.lora|\.lora_linear_layer|(?P<attached>_lora))\.(?P<early>down|up)\.weight$"
    r"|(?:\.lora|\.lora_linear_layer|_lora)?\.alpha$"
)
"""The end of a tensor's name, after its module's path."""

_ROLES: Final = {
    "A": Role.DOWN, "down": Role.DOWN, "B": Role.UP, "up": Role.UP, None: Role.ALPHA,
}  # fmt: skip

_DOTTED_PREFIXES: Final = (
    "transformer.", "diffusion_model.", "base_model.", "model.", "pipe.", "dit.",
)  # fmt: skip
"""Prefixes of the object that a trainer saved; they nest (`base_model.model.transformer.`)."""

_WRAPPERS: Final = frozenset(
    {"_orig_mod", "module", "processor", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
)
"""Parts of a path that torch.compile, data parallelism, checkpointing and diffusers' attention
processors put in front of a module or between it and its parent."""

_FLAT_PREFIXES: Final = ("lora_unet_", "lora_transformer_", "lycoris_")
"""Prefixes that kohya's and related scripts put before a path with underscores for dots."""

_FLAT_WRAPPERS: Final = re.compile(r"_orig_mod_|^module_")
"""Wrappers in such a path."""

_BLOCK: Final = re.compile(r"transformer_blocks[._](\d{1,6})[._]")

_PLAIN: Final = "only plain LoRA (A and B matrices) is understood"

_FOREIGN: Final = tuple(
    (re.compile(rf"\.(?:{tail})(?:\.|$)"), what)
    for tail, what in (
        ("dora_scale|magnitude|lora_magnitude_vector", "DoRA magnitudes"),
        (r"hada_\w+", "LoHa factors"),
        (r"lokr_\w+", "LoKr factors"),
        (r"b?oft_\w+", "OFT rotations"),
        (r"(?:lora_[AB]|lora[_.](?:up|down))(?:\.[^.]+)?\.bias", "LoRA biases"),
        (r"lora_embedding_[AB]", "embedding factors"),
        ("diff|diff_b|set_weight", "full weight differences"),
        ("lora_mid", "convolution factors"),
    )
)
"""Names that belong to other methods than plain LoRA. Their change of the weights is not a sum of
low-rank products, so ignoring them would generate a wrong image."""

_TEXT_ENCODER: Final = ("text_encoder", "text_model", "lora_te", "te_", "te1_", "te2_", "clip_")

_MAX_PROBLEMS: Final = 3
"""Kinds of problems that an error lists."""

_Problem = tuple[str, str]
"""A kind of content, and why it cannot be used."""


class _Split(NamedTuple):
    """A tensor's name, taken apart."""

    written: str
    """The module's path, as the file has it."""
    role: Role
    adapter: str | None
    attached: bool
    """True if the LoRA was an attribute beside the layer (`to_out_lora`), not inside it."""


def canonicalise(names: Iterable[str], modules: Collection[str]) -> dict[str, dict[Role, str]]:
    """Maps every name of a file to a module of the model.

    Args:
        names: the file's tensor names.
        modules: the module paths that exist in the model.

    Returns:
        Module path -> role -> the file's name for that tensor.

    Raises:
        LoraError: a name is not understood, or two names mean the same tensor.
    """
    flat = {path.replace(".", "_"): path for path in modules}
    found: dict[str, dict[Role, str]] = {}
    adapters: dict[str, str] = {}
    problems: dict[_Problem, list[str]] = {}
    blocks = _count_blocks(modules)
    for name in names:
        split = _split(name)
        path = _resolve(split, modules, flat) if split else None
        if split is None or path is None:
            problems.setdefault(_problem(name, split, modules, blocks), []).append(name)
            continue
        if split.adapter is not None:
            adapters.setdefault(split.adapter, name)
        roles = found.setdefault(path, {})
        if split.role in roles and len(adapters) < 2:
            raise LoraError(
                f"{shown(roles[split.role])!r} and {shown(name)!r} both give the {split.role} "
                f"weights of {path}; export the LoRA with one naming convention"
            )
        roles[split.role] = name
    if problems:
        raise LoraError(_explain(problems))
    if len(adapters) > 1:
        listed = ", ".join(repr(shown(adapter)) for adapter in list(adapters)[:_MAX_PROBLEMS])
        raise LoraError(
            f"the file holds {len(adapters):,} adapters ({listed}); export one of them alone"
        )
    return found


def strip_wrappers(path: str) -> str:
    """Returns a dotted path without the prefixes and wrappers of the model it was saved from."""
    path = ".".join(part for part in path.split(".") if part not in _WRAPPERS)
    while True:
        for prefix in _DOTTED_PREFIXES:
            if path.startswith(prefix):
                path = path[len(prefix) :]
                break
        else:
            return path


def is_text_encoder(name: str) -> bool:
    """Returns True for a tensor's or field's name that belongs to a text encoder."""
    return strip_wrappers(name).startswith(_TEXT_ENCODER)


def is_flat(name: str) -> bool:
    """Returns True for a name in kohya's form, its path's dots turned into underscores."""
    return name.startswith(_FLAT_PREFIXES)


def role_of(name: str) -> Role | None:
    """Returns what a tensor of this name is to its module; None if the name's end is unknown."""
    split = _split(name)
    return None if split is None else split.role


def _split(name: str) -> _Split | None:
    match = _TENSOR.search(name)
    if match is None:
        return None
    role = _ROLES[match["factor"] or match["early"]]
    return _Split(name[: match.start()], role, match["adapter"], match["attached"] is not None)


def _resolve(split: _Split, modules: Collection[str], flat: dict[str, str]) -> str | None:
    path = strip_wrappers(split.written)
    if path in modules:
        return path
    if split.attached and f"{path}.0" in modules:
        return f"{path}.0"  # to_out is a list of a layer and its dropout
    for prefix in _FLAT_PREFIXES:
        if split.written.startswith(prefix):
            rest = split.written[len(prefix) :]
            return flat.get(rest) or flat.get(_FLAT_WRAPPERS.sub("", rest))
    return None


def _count_blocks(modules: Iterable[str]) -> int:
    numbers = (int(match[1]) for match in map(_BLOCK.match, modules) if match)
    return 1 + max(numbers, default=-1)


def _problem(name: str, split: _Split | None, modules: Collection[str], blocks: int) -> _Problem:
    """Returns the problem of a name; names with the same problem share one explanation."""
    if is_text_encoder(name):
        return "text encoder weights", "only the transformer takes adapters here"
    for pattern, what in _FOREIGN:
        if pattern.search(name):
            return what, _PLAIN
    if split is None:
        path, _, kind = strip_wrappers(name).rpartition(".")
        if kind in ("weight", "bias") and path in modules:
            return f"the whole {kind} of layers", _PLAIN
        return "tensors whose names are not understood", _PLAIN
    path = split.written
    if "time_text_embed" in path:
        return (
            "changes of the timestep embedding",
            "this server has folded the timestep embedding into tables",
        )
    block = _BLOCK.search(path)
    if block and int(block[1]) >= blocks:
        return f"weights for transformer_blocks.{int(block[1])}", f"this model has {blocks} blocks"
    return "weights of modules whose names are not understood", "this model has no such module"


def _explain(problems: dict[_Problem, list[str]]) -> str:
    parts = [
        f"the file holds {what} ({len(names):,}, the first is {shown(names[0])!r}), and {why}"
        for (what, why), names in list(problems.items())[:_MAX_PROBLEMS]
    ]
    return f"{'; '.join(parts)}; use a LoRA of this model's transformer, exported without these"
