"""The scale of each module of an adapter, from all places where a file or its sidecar gives it.

A module's product is multiplied by alpha / rank, and by 1 where no alpha is written: the convention
of diffusers and PEFT. (A LoKr of two whole factors has no rank; see `lokr`.) Alpha is written in
`.alpha` tensors, in the header (`header_config`), or in adapter_config.json beside the file
(`sidecar`). All places that give a module's scale must agree,
or the file is refused and the error names both.

kohya's `ss_network_alpha` needs a rule of its own. It is a note about the training: the trainer
itself always writes `.alpha` tensors, and always `ss_network_module` beside the note. musubi's
convert_lora folds sqrt(alpha / rank) into both factors, leaves the tensors out, and keeps the
notes; the conversion back writes alpha = rank into tensors, and keeps them too.

1. With `.alpha` tensors, the tensors count. At least one must agree with the note, unless each is
   its module's rank. (Alphas by block are legitimate; a note that no tensor agrees with is not.)
   LyCORIS trained with `rs_lora`, which `ss_network_args` says, writes alpha * sqrt(rank) there.
2. Without them, in keys of kohya's own form (`lora_unet_...`), the note is the alpha: nothing that
   folds alpha into the weights writes such keys without tensors.
3. Without them, in other keys, with `ss_network_module`: converted. The note does not count.
4. Otherwise another program wrote the note as alpha, and it counts like the header's other fields.
   Where it is the only statement and something points to a converter too (more `ss_` notes, or
   musubi's own `diffusion_model.` keys), both readings are possible: the file is refused unless
   they mean the same scale.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from wuliart_lora.alpha import check_alpha
from wuliart_lora.errors import LoraError
from wuliart_lora.header_config import KOHYA_ALPHA, read_header_config
from wuliart_lora.header_fields import HeaderField, HeaderFields
from wuliart_lora.keys import Role, is_flat
from wuliart_lora.module_shapes import Form
from wuliart_lora.peft_config import Pattern, PeftConfig
from wuliart_lora.sidecar import read_sidecar

_KOHYA_MODULE: Final = "ss_network_module"
_KOHYA_ARGUMENTS: Final = "ss_network_args"
_RS_LORA: Final = re.compile(r'"rs_lora"\s*:\s*"?(true|1)\b', re.IGNORECASE)
"""In the arguments, which are JSON with texts as values."""
_DYNAMIC: Final = "dynamic"
"""Alpha in the metadata of sd-scripts' resize_lora when every module has its own."""

_MUSUBI_PREFIX: Final = "diffusion_model."

_TOLERANCE: Final = 1e-2
"""Relative; alpha tensors of 8 or 16 bits are rounded."""


class Stated(NamedTuple):
    """A module's scale, and where it is written."""

    scale: float
    source: str


class NotedAlpha(NamedTuple):
    """kohya's note, which one of the file's `.alpha` tensors must agree with."""

    alpha: float
    rs_lora: bool
    """True if the tensors may hold alpha * sqrt(rank) instead."""


class Strength(NamedTuple):
    """The scales that are written outside of tensors."""

    scales: Mapping[str, Stated]
    """By module; empty if none is written."""
    noted_alpha: NotedAlpha | None
    """None where there is no note, or it does not count."""


def read_strength(
    metadata: Mapping[str, str],
    named: Mapping[str, Mapping[Role, str]],
    forms: Mapping[str, Form],
    config: Mapping[str, Any] | None,
) -> Strength:
    """Reads the scale of each module from the header and the sidecar.

    Args:
        metadata: the header's.
        named: module path -> role -> the file's name of the tensor.
        forms: module path -> what its tensors are.
        config: the fields of adapter_config.json, None if there is none.

    Raises:
        LoraError: a statement is not understood, or two places disagree.
    """
    fields = HeaderFields(metadata)
    sources = read_header_config(fields)
    if config is not None:
        sources.append(read_sidecar(config))
    ranks = {module: form.factor for module, form in forms.items() if form.factor}
    if not ranks:
        return Strength(_agreed(sources, forms), None)
    named = {module: named[module] for module in ranks}
    note = fields.one(KOHYA_ALPHA)
    noted = None if note is None or note.value.strip().lower() == _DYNAMIC else note.number()
    if note is None or noted is None:
        return Strength(_agreed(sources, forms), None)
    if any(Role.ALPHA in roles for roles in named.values()):
        arguments = fields.every(_KOHYA_ARGUMENTS)
        rs_lora = any(_RS_LORA.search(field.value) for field in arguments)
        return Strength(_agreed(sources, forms), NotedAlpha(noted, rs_lora))
    if _counts(note, noted, fields, named, ranks, alone=not sources):
        alpha = check_alpha(noted, note.source)
        sources.append(PeftConfig(note.source, None, alpha, Pattern({}), Pattern({}), False))
    return Strength(_agreed(sources, forms), None)


def agree(first: Stated, second: Stated, module: str) -> float:
    """Returns the scale that both give; raises `LoraError` if they give two."""
    if not math.isclose(first.scale, second.scale, rel_tol=_TOLERANCE):
        raise LoraError(
            f"{first.source} means a scale of {first.scale:g} for {module} and {second.source} one "
            f"of {second.scale:g}; remove the one that is wrong"
        )
    return first.scale


def check_noted_alpha(noted: NotedAlpha, found: Iterable[tuple[float, int]]) -> None:
    """Raises `LoraError` if kohya's note contradicts the `.alpha` tensors: rule 1.

    Args:
        noted: the note.
        found: scale and rank of each module that has an `.alpha` tensor.
    """
    scales = list(found)
    powers = (0, 0.5) if noted.rs_lora else (0,)
    agreed = any(
        math.isclose(scale * rank, noted.alpha * rank**power, rel_tol=_TOLERANCE)
        for scale, rank in scales
        for power in powers
    )
    if not agreed and any(scale != 1 for scale, _ in scales):
        scale, rank = next(pair for pair in scales if pair[0] != 1)
        raise LoraError(
            f"the header's {KOHYA_ALPHA!r} says alpha {noted.alpha:g} and the .alpha tensors hold "
            f"{scale * rank:g}; remove the one that is wrong"
        )


def _agreed(sources: list[PeftConfig], forms: Mapping[str, Form]) -> dict[str, Stated]:
    scales: dict[str, Stated] = {}
    for source in sources:
        for module, form in forms.items():
            if (scale := source.scale(module, form)) is None:
                continue
            stated = Stated(scale, source.source)
            agree(scales.setdefault(module, stated), stated, module)
    return scales


def _counts(
    note: HeaderField,
    alpha: float,
    fields: HeaderFields,
    named: Mapping[str, Mapping[Role, str]],
    ranks: Mapping[str, int],
    *,
    alone: bool,
) -> bool:
    """Returns True if kohya's note is the alpha, without `.alpha` tensors: rules 2 to 4."""
    names = [name for roles in named.values() for name in roles.values()]
    if all(is_flat(name) for name in names):
        return True
    if _KOHYA_MODULE in fields:
        return False
    more = any(name.startswith("ss_") and name != KOHYA_ALPHA for name in fields)
    converted = more or any(name.startswith(_MUSUBI_PREFIX) for name in names)
    if alone and converted and any(rank != alpha for rank in ranks.values()):
        raise LoraError(
            f"{note.source} says alpha {alpha:g}, there are no .alpha tensors, and nothing tells "
            "if a converter has multiplied it into the weights already; add .alpha tensors, or "
            f"remove {KOHYA_ALPHA} if it has"
        )
    return True
