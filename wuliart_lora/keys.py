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
from wuliart_lora.refused_names import (
    CHANGED_NORMS,
    TEXT_ENCODER,
    TIMESTEP_EMBEDDING,
    WHOLE_DIFFERENCES,
    Problem,
    count_blocks,
    explain,
    unknown_ending,
    unknown_module,
)


class Role(StrEnum):
    """The role of a tensor in its module."""

    DOWN = "down"
    UP = "up"
    ALPHA = "alpha"
    HADA_W1_A = "hada_w1_a"
    HADA_W1_B = "hada_w1_b"
    HADA_W2_A = "hada_w2_a"
    HADA_W2_B = "hada_w2_b"
    LOKR_W1 = "lokr_w1"
    LOKR_W1_A = "lokr_w1_a"
    LOKR_W1_B = "lokr_w1_b"
    LOKR_W2 = "lokr_w2"
    LOKR_W2_A = "lokr_w2_a"
    LOKR_W2_B = "lokr_w2_b"
    DIFF = "diff"
    DIFF_B = "diff_b"


LOHA_ROLES: Final = (Role.HADA_W1_A, Role.HADA_W1_B, Role.HADA_W2_A, Role.HADA_W2_B)
"""The four factors of a LoHa: up and down of its first product, then of its second."""

LOKR_ROLES: Final = (
    (Role.LOKR_W1, Role.LOKR_W1_A, Role.LOKR_W1_B),
    (Role.LOKR_W2, Role.LOKR_W2_A, Role.LOKR_W2_B),
)
"""The two factors of a LoKr: each is whole, or the product of two."""


_TENSOR: Final = re.compile(
    # PEFT names the adapter when a whole model's state is saved; DiffSynth ships such files.
    r"\.lora_(?P<factor>A|B|down|up)(?:\.(?P<adapter>[^.]+))?\.weight$"
    # LyCORIS, kohya's scripts and ComfyUI; these are parameters, not layers.
    r"|\.(?P<parameter>hada_w[12]_[ab]|lokr_w[12](?:_[ab])?|diff(?:_b)?)$"
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

_TEXT_ENCODER: Final = ("text_encoder", "text_model", "lora_te", "te_", "te1_", "te2_", "clip_")

_MAX_LISTED: Final = 3
"""Names of adapters that an error lists."""


class Names(NamedTuple):
    """The names of a file, sorted."""

    modules: dict[str, dict[Role, str]]
    """Path of a linear layer or a norm -> role -> the file's name for that tensor. Of a norm, the
    role is `DIFF`."""
    idle: dict[Problem, list[dict[Role, str]]]
    """Weights of other parts than the model's modules, by what they are: role -> name for each of
    their layers. A file may hold them as long as they change nothing."""


class _Split(NamedTuple):
    """A tensor's name, taken apart."""

    written: str
    """The module's path, as the file has it."""
    role: Role
    adapter: str | None
    attached: bool
    """True if the LoRA was an attribute beside the layer (`to_out_lora`), not inside it."""


def canonicalise(
    names: Iterable[str], modules: Collection[str], norms: Collection[str] = ()
) -> Names:
    """Maps every name of a file to a module of the model, or to a layer outside of it.

    Args:
        names: the file's tensor names.
        modules: the paths of the model's linear layers.
        norms: the paths of its norms that have weights.

    Raises:
        LoraError: a name is not understood, or two names mean the same tensor.
    """
    paths = {*modules, *norms}
    flat = {path.replace(".", "_"): path for path in paths}
    found: dict[str, dict[Role, str]] = {}
    idle: dict[Problem, dict[str, dict[Role, str]]] = {}
    adapters: dict[str, str] = {}
    problems: dict[Problem, list[str]] = {}
    blocks = count_blocks(modules)
    for name in names:
        split = _split(name)
        if split is None:
            problem = TEXT_ENCODER if is_text_encoder(name) else _ending_problem(name, modules)
            problems.setdefault(problem, []).append(name)
            continue
        path = _resolve(split, paths, flat)
        if path is None and (part := _idle_part(split)):
            roles = idle.setdefault(part, {}).setdefault(split.written, {})
            _put(roles, split.role, name, split.written)
            continue
        if path is None:
            problems.setdefault(unknown_module(split.written, blocks), []).append(name)
            continue
        if (path in norms) != (split.role is Role.DIFF):
            problem = CHANGED_NORMS if path in norms else WHOLE_DIFFERENCES
            problems.setdefault(problem, []).append(name)
            continue
        if split.adapter is not None:
            adapters.setdefault(split.adapter, name)
        if len(adapters) < 2:
            _put(found.setdefault(path, {}), split.role, name, path)
    if problems:
        raise LoraError(explain(problems))
    if len(adapters) > 1:
        listed = ", ".join(repr(shown(adapter)) for adapter in list(adapters)[:_MAX_LISTED])
        raise LoraError(
            f"the file holds {len(adapters):,} adapters ({listed}); export one of them alone"
        )
    return Names(found, {part: list(layers.values()) for part, layers in idle.items()})


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
    """Returns what a tensor of this name is to its module of the transformer.

    None if the name's end is unknown, or the tensor belongs to another part, which may be zero.
    """
    split = _split(name)
    return None if split is None or _idle_part(split) else split.role


def _split(name: str) -> _Split | None:
    match = _TENSOR.search(name)
    if match is None:
        return None
    parameter = match["parameter"]
    role = Role(parameter) if parameter else _ROLES[match["factor"] or match["early"]]
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


def _put(roles: dict[Role, str], role: Role, name: str, path: str) -> None:
    """Adds a tensor to its layer; raises `LoraError` if another one has its role."""
    if role in roles:
        raise LoraError(
            f"{shown(roles[role])!r} and {shown(name)!r} both give the {role} weights of "
            f"{shown(path)}; export the LoRA with one naming convention"
        )
    roles[role] = name


def _idle_part(split: _Split) -> Problem | None:
    """Returns what a layer outside of the model's modules belongs to, None if it is unknown."""
    if is_text_encoder(split.written):
        return TEXT_ENCODER
    return TIMESTEP_EMBEDDING if "time_text_embed" in split.written else None


def _ending_problem(name: str, modules: Collection[str]) -> Problem:
    path, _, kind = strip_wrappers(name).rpartition(".")
    whole = kind in ("weight", "bias") and path in modules
    return unknown_ending(name, kind if whole else None)
