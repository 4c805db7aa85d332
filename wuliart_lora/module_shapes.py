"""Checks a module's tensors by the header alone: all there, of one rank, of the module's shape."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

from wuliart_lora.errors import LoraError, shown
from wuliart_lora.keys import LOHA_ROLES, LOKR_ROLES, Role
from wuliart_lora.reader import Span
from wuliart_lora.tensor_values import INFINITY

MAX_LOHA_RANK: Final = 1024
"""Largest rank, as a LoRA, of a LoHa that is read without another limit: 32 x 32. Unlike a LoRA's,
it is not bounded by the size of the file."""

LORA: Final = "LoRA"
LOHA: Final = "LoHa"
LOKR: Final = "LoKr"

_LORA_ROLES: Final = (Role.DOWN, Role.UP)
_METHODS: Final = {
    LORA: _LORA_ROLES,
    LOHA: LOHA_ROLES,
    LOKR: tuple(role for factor in LOKR_ROLES for role in factor),
}


class Form(NamedTuple):
    """What a file's tensors are to a linear layer."""

    method: str | None
    """`LORA`, `LOHA` or `LOKR`; None where only the bias changes."""
    factor: int
    """The rank that alpha is divided by: of a LoHa the first product's, as LyCORIS and ComfyUI do.
    0 where no alpha counts: beside a LoKr of two whole factors, or without a product."""
    rank: int
    """The rank as a LoRA; 0 without low-rank factors."""
    kronecker: tuple[int, int] | None
    """Rows and columns of a LoKr's w1."""


def check_module(
    spans: Mapping[str, Span], module: str, roles: Mapping[Role, str], features: tuple[int, int]
) -> Form:
    """Checks the tensors of one linear layer.

    Args:
        spans: the file's tensors, by name.
        module: the layer's path.
        roles: role -> name of the layer's tensor.
        features: (in_features, out_features) of the layer.

    Raises:
        LoraError: a tensor is missing, has another shape than the layer needs, or is no float.
    """
    if (name := roles.get(Role.DIFF_B)) is not None:
        check_vector(spans, module, name, features[1])
    if (name := roles.get(Role.ALPHA)) is not None and spans[name].shape not in ((), (1,)):
        raise LoraError(
            f"{shown(name)!r} should be a single number and has shape {list(spans[name].shape)}; "
            "export the LoRA again"
        )
    found = {name: [r for r in needed if r in roles] for name, needed in _METHODS.items()}
    methods = [name for name, present in found.items() if present]
    if len(methods) > 1:
        first, second = (shown(roles[found[name][0]]) for name in methods[:2])
        raise LoraError(
            f"{module} has both {methods[0]} and {methods[1]} factors, {first!r} and {second!r}; "
            "export it as one of the two"
        )
    if not methods and Role.DIFF_B in roles and Role.ALPHA not in roles:
        return Form(None, 0, 0, None)
    if methods == [LOKR]:
        return _check_lokr(spans, module, roles, features)
    needed = LOHA_ROLES if methods == [LOHA] else _LORA_ROLES
    _check_complete(module, roles, needed)
    downs, ups = (needed[1::2], needed[::2]) if len(needed) == 4 else (needed[:1], needed[1:])
    ranks = [
        _check_product(spans, module, (roles[down], roles[up]), features)
        for down, up in zip(downs, ups, strict=True)
    ]
    if len(ranks) == 2:
        return Form(LOHA, ranks[0], ranks[0] * ranks[1], None)
    return Form(LORA, ranks[0], ranks[0], None)


def check_vector(spans: Mapping[str, Span], module: str, name: str, features: int) -> None:
    """Checks what is added to a bias or to a norm's weight, a vector of `features` floats.

    Raises:
        LoraError: it has another shape, or is no float.
    """
    if spans[name].shape != (features,):
        raise LoraError(
            f"{shown(name)!r} has shape {list(spans[name].shape)}, and {module} of this model "
            f"needs [{features}]; use a LoRA made for this model"
        )
    _check_floats(spans, [name])


def check_largest(forms: Mapping[str, Form], max_rank: int | None) -> None:
    """Raises `LoraError` if a module needs a larger rank than `max_rank`; None is no limit."""
    largest = max(forms, key=lambda module: forms[module].rank, default=None)
    if largest is None:
        return
    rank = forms[largest].rank
    is_loha = forms[largest].method == LOHA
    if max_rank is None:
        if is_loha and rank > MAX_LOHA_RANK:
            raise LoraError(
                f"the LoHa at {largest} needs rank {rank} as a LoRA, and at most "
                f"{MAX_LOHA_RANK:,} is read; reduce its rank"
            )
    elif rank > max_rank:
        what = f"a LoHa that needs rank {rank}" if is_loha else f"rank {rank}"
        raise LoraError(
            f"{what} at {largest}, this server holds up to {max_rank}; "
            f"start it with --max-rank {rank}, or reduce the LoRA's rank"
        )


def _check_lokr(
    spans: Mapping[str, Span], module: str, roles: Mapping[Role, str], features: tuple[int, int]
) -> Form:
    """Checks that the factors' Kronecker product has the layer's shape."""
    shapes, ranks = [], []
    for whole, up, down in LOKR_ROLES:
        halves = [role for role in (up, down) if role in roles]
        if whole in roles and halves:
            raise LoraError(
                f"{module} has both {shown(roles[whole])!r} and {shown(roles[halves[0]])!r}, "
                "which are one factor; export the LoRA again"
            )
        needed = (up, down) if halves else (whole,)
        _check_complete(module, roles, needed)
        names = [roles[role] for role in needed]
        _check_floats(spans, names)
        given = [spans[name].shape for name in names]
        if any(len(shape) != 2 or 0 in shape for shape in given) or (
            halves and given[0][1] != given[1][0]
        ):
            raise LoraError(
                f"the factors {' and '.join(repr(shown(name)) for name in names)} have shapes "
                f"{' and '.join(str(list(shape)) for shape in given)}, which are no matrix; "
                "export the LoRA again"
            )
        shapes.append((given[0][0], given[-1][1]))
        if halves:
            ranks.append(given[0][1])
    (a, b), (c, d) = shapes
    if (b * d, a * c) != features:
        raise LoraError(
            f"the Kronecker factors of {module} are [{a}, {b}] and [{c}, {d}], whose product is "
            f"[{a * c}, {b * d}], and this model needs [{features[1]}, {features[0]}]; use a LoRA "
            "made for this model"
        )
    if len(set(ranks)) > 1 and Role.ALPHA in roles:
        raise LoraError(
            f"the factors of {module} have ranks {ranks[0]} and {ranks[1]}, and nothing tells "
            "which of them its alpha belongs to; export the LoRA with one rank"
        )
    return Form(LOKR, ranks[-1] if ranks else 0, 0, (a, b))


def _check_complete(module: str, roles: Mapping[Role, str], needed: Collection[Role]) -> None:
    for role in needed:
        if role not in roles:
            raise LoraError(
                f"{module} has {shown(next(iter(roles.values())))!r} but no {role} weights; "
                "the file is incomplete: export the LoRA again"
            )


def _check_floats(spans: Mapping[str, Span], names: Sequence[str]) -> None:
    for name in names:
        if spans[name].dtype not in INFINITY:
            raise LoraError(
                f"{shown(name)!r} has element type {spans[name].dtype}; convert the file to F32, "
                "BF16, F16 or F8_E4M3"
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
    _check_floats(spans, names)
    return rank
