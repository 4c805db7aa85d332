"""Checks a module's tensors by the header alone: all there, of one rank, of the module's shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from wuliart_lora.errors import LoraError, shown
from wuliart_lora.keys import LOHA_ROLES, Role
from wuliart_lora.reader import Span
from wuliart_lora.tensor_values import INFINITY

MAX_LOHA_RANK: Final = 1024
"""Largest rank, as a LoRA, of a LoHa that is read without another limit: 32 x 32. Unlike a LoRA's,
it is not bounded by the size of the file."""


class Ranks(NamedTuple):
    """The rank of a module's factors, and of the LoRA that they are."""

    factor: int
    """What alpha is divided by: of a LoHa the first product's rank, as LyCORIS and ComfyUI do."""
    product: int
    """Equal to `factor` for a LoRA."""


def check_module(
    spans: Mapping[str, Span], module: str, roles: Mapping[Role, str], features: tuple[int, int]
) -> Ranks:
    """Checks the tensors of one module, and returns their ranks.

    Args:
        spans: the file's tensors, by name.
        module: the module's path.
        roles: role -> name of the module's tensor.
        features: (in_features, out_features) of the module.

    Raises:
        LoraError: a tensor is missing, has another shape than the module needs, or is no float.
    """
    plain = [role for role in (Role.DOWN, Role.UP) if role in roles]
    loha = [role for role in LOHA_ROLES if role in roles]
    if plain and loha:
        raise LoraError(
            f"{module} has both LoRA and LoHa factors, {shown(roles[plain[0]])!r} and "
            f"{shown(roles[loha[0]])!r}; export it as one of the two"
        )
    needed = LOHA_ROLES if loha else (Role.DOWN, Role.UP)
    for role in needed:
        if role not in roles:
            raise LoraError(
                f"{module} has {shown(next(iter(roles.values())))!r} but no {role} weights; "
                "the file is incomplete: export the LoRA again"
            )
    ups, downs = (needed[::2], needed[1::2]) if loha else (needed[1:], needed[:1])
    ranks = [
        _check_product(spans, module, (roles[down], roles[up]), features)
        for down, up in zip(downs, ups, strict=True)
    ]
    if (name := roles.get(Role.ALPHA)) is not None and spans[name].shape not in ((), (1,)):
        raise LoraError(
            f"{shown(name)!r} should be a single number and has shape {list(spans[name].shape)}; "
            "export the LoRA again"
        )
    return Ranks(ranks[0], ranks[0] * ranks[1] if loha else ranks[0])


def check_largest(ranks: Mapping[str, Ranks], max_rank: int | None) -> None:
    """Raises `LoraError` if a module needs a larger rank than `max_rank`; None is no limit."""
    largest = max(ranks, key=lambda module: ranks[module].product)
    factor, product = ranks[largest]
    if max_rank is None:
        if factor != product > MAX_LOHA_RANK:
            raise LoraError(
                f"the LoHa at {largest} needs rank {product} as a LoRA, and at most "
                f"{MAX_LOHA_RANK:,} is read; reduce its rank"
            )
    elif product > max_rank:
        what = f"rank {product}" if factor == product else f"a LoHa that needs rank {product}"
        raise LoraError(
            f"{what} at {largest}, this server holds up to {max_rank}; "
            f"start it with --max-rank {product}, or reduce the LoRA's rank"
        )


def _check_product(
    spans: Mapping[str, Span], module: str, names: tuple[str, str], features: tuple[int, int]
) -> int:
    """Checks that down and up fit the module and each other, and are floats; returns the rank."""
    down, up = (spans[name] for name in names)
    inner, outer = features
    if len(down.shape) != 2 or len(up.shape) != 2 or (down.shape[1], up.shape[0]) != features:
        raise LoraError(
            f"the weights of {module} are {list(down.shape)} and {list(up.shape)}, this model "
            f"needs [rank, {inner}] and [{outer}, rank]; use a LoRA made for this model"
        )
    rank = down.shape[0]
    if up.shape[1] != rank:
        raise LoraError(
            f"the two halves of {module} disagree on the rank, {rank} and {up.shape[1]}; "
            "export the LoRA again"
        )
    if rank == 0:
        raise LoraError(f"the weights of {module} have rank 0; export the LoRA again")
    for name in names:
        if spans[name].dtype not in INFINITY:
            raise LoraError(
                f"{shown(name)!r} has element type {spans[name].dtype}; convert the file to F32, "
                "BF16, F16 or F8_E4M3"
            )
    return rank
