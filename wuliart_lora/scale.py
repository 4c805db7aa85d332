"""What an adapter's strength comes to for each module, of all places where it is written.

A module's product is scaled by alpha / rank, and by 1 where no alpha is written: the convention of
diffusers and PEFT. Alpha stands in `.alpha` tensors, in the header (`notes`), or in
adapter_config.json beside the file (`sidecar`). Each that speaks of a module must mean the same
scale, or the file is refused with both named.

kohya's `ss_network_alpha` needs a rule of its own. It is a note about the training: the trainer
itself always writes `.alpha` tensors, and always `ss_network_module` beside the note. musubi's
convert_lora folds sqrt(alpha / rank) into both factors, leaves the tensors out, and keeps the
notes; back again it writes alpha = rank into tensors, and keeps them too.

1. With `.alpha` tensors these count, and at least one has to be what the note says, unless each is
   its module's rank. (Alphas by block are legitimate; a note that no tensor agrees with is not.)
2. Without them, in keys of kohya's own form (`lora_unet_...`), the note is the alpha: nothing that
   folds alpha away writes such keys without tensors.
3. Without them, in other keys, with `ss_network_module`: converted. The note does not count.
4. Otherwise another program wrote it, as alpha, and it counts as the header's other fields do.
   Where it is the only one and something points to a converter too (more `ss_` notes, or musubi's
   own `diffusion_model.` keys), both readings are possible: refused unless they mean the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from wuliart_lora.alpha import check_alpha, read_number
from wuliart_lora.errors import LoraError
from wuliart_lora.keys import Role, is_flat
from wuliart_lora.notes import read_notes
from wuliart_lora.peft_config import Pattern, PeftConfig
from wuliart_lora.sidecar import read_sidecar

KOHYA_ALPHA: Final = "ss_network_alpha"
_KOHYA_MODULE: Final = "ss_network_module"
_DYNAMIC: Final = "dynamic"
"""What sd-scripts' resize_lora writes when every module has its own."""

_MUSUBI_PREFIX: Final = "diffusion_model."

_TOLERANCE: Final = 1e-2
"""Relative; alpha tensors of 8 or 16 bits are rounded."""


class Stated(NamedTuple):
    """A module's scale, and where it is written."""

    scale: float
    source: str


class Strength(NamedTuple):
    """Everything about the strength that does not stand in tensors."""

    scales: Mapping[str, Stated]
    """By module; empty if nothing is written."""
    noted_alpha: float | None
    """kohya's note, which one of the file's `.alpha` tensors has to agree with; None without."""


def read_strength(
    metadata: Mapping[str, str],
    named: Mapping[str, Mapping[Role, str]],
    ranks: Mapping[str, int],
    config: Mapping[str, Any] | None,
) -> Strength:
    """The scale of each module as it is written beside the tensors.

    Args:
        metadata: the header's.
        named: module path -> role -> the file's name of the tensor.
        ranks: module path -> rank of its factors.
        config: the fields of adapter_config.json, None if there is none.

    Raises:
        LoraError: something written is not understood, or two places disagree.
    """
    sources = read_notes(metadata)
    if config is not None:
        sources.append(read_sidecar(config))
    noted = _noted_alpha(metadata)
    if noted is not None and any(Role.ALPHA in roles for roles in named.values()):
        return Strength(_agreed(sources, ranks), noted)
    if noted is not None and _counts(noted, metadata, named, ranks, alone=not sources):
        alpha = check_alpha(noted, f"the header's {KOHYA_ALPHA!r}")
        source = f"the header's {KOHYA_ALPHA!r}"
        sources.append(PeftConfig(source, None, alpha, Pattern({}), Pattern({}), False))
    return Strength(_agreed(sources, ranks), None)


def agree(first: Stated, second: Stated, module: str) -> float:
    """The scale that both mean; `LoraError` if they mean two."""
    if not math.isclose(first.scale, second.scale, rel_tol=_TOLERANCE):
        raise LoraError(
            f"{first.source} means a scale of {first.scale:g} for {module} and {second.source} one "
            f"of {second.scale:g}; remove the one that is wrong"
        )
    return first.scale


def check_noted_alpha(noted: float, found: Iterable[tuple[float, int]]) -> None:
    """Raises `LoraError` if kohya's note contradicts the `.alpha` tensors: rule 1.

    `found` are the scale and the rank of each module that has one.
    """
    scales = list(found)
    agreed = any(math.isclose(scale * rank, noted, rel_tol=_TOLERANCE) for scale, rank in scales)
    if not agreed and any(scale != 1 for scale, _ in scales):
        scale, rank = next(pair for pair in scales if pair[0] != 1)
        raise LoraError(
            f"the header's {KOHYA_ALPHA!r} says alpha {noted:g} and the .alpha tensors hold "
            f"{scale * rank:g}; remove the one that is wrong"
        )


def _agreed(sources: list[PeftConfig], ranks: Mapping[str, int]) -> dict[str, Stated]:
    scales: dict[str, Stated] = {}
    for source in sources:
        for module, rank in ranks.items():
            stated = Stated(source.scale(module, rank), source.source)
            agree(scales.setdefault(module, stated), stated, module)
    return scales


def _noted_alpha(metadata: Mapping[str, str]) -> float | None:
    written = metadata.get(KOHYA_ALPHA)
    if written is None or written.strip().lower() == _DYNAMIC:
        return None
    return read_number(written, f"the header's {KOHYA_ALPHA!r}")


def _counts(
    alpha: float,
    metadata: Mapping[str, str],
    named: Mapping[str, Mapping[Role, str]],
    ranks: Mapping[str, int],
    *,
    alone: bool,
) -> bool:
    """Whether kohya's note is the alpha of a file without `.alpha` tensors: rules 2 to 4."""
    names = [name for roles in named.values() for name in roles.values()]
    if all(is_flat(name) for name in names):
        return True
    if _KOHYA_MODULE in metadata:
        return False
    more = any(field.startswith("ss_") and field != KOHYA_ALPHA for field in metadata)
    converted = more or any(name.startswith(_MUSUBI_PREFIX) for name in names)
    if alone and converted and any(rank != alpha for rank in ranks.values()):
        raise LoraError(
            f"the header's {KOHYA_ALPHA!r} says alpha {alpha:g}, there are no .alpha tensors, and "
            "nothing tells if a converter has multiplied it into the weights already; add .alpha "
            f"tensors, or remove {KOHYA_ALPHA} if it has"
        )
    return True
