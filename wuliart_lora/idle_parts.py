"""Weights of parts that take no adapter here, which trainers save although they trained none.

A text encoder's or the timestep embedding's LoRA starts with B = 0, and a difference with zeros. If
it is still zero, it changes nothing and is ignored with a note; otherwise the file is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wuliart_lora.errors import LoraError
from wuliart_lora.keys import Role
from wuliart_lora.reader import Tensor
from wuliart_lora.refused_names import Problem, explain
from wuliart_lora.tensor_values import is_zero


def check_idle(
    tensors: Mapping[str, Tensor], idle: Mapping[Problem, Sequence[Mapping[Role, str]]]
) -> tuple[str, ...]:
    """Checks that weights outside of the model's modules change nothing.

    Args:
        tensors: the file's, by name.
        idle: for each part of the model, role -> name of the tensors of each of its layers.

    Returns:
        One sentence for each part that was ignored.

    Raises:
        LoraError: a part is not zero.
    """
    trained: dict[Problem, list[str]] = {}
    for part, layers in idle.items():
        for roles in layers:
            if not _changes_nothing(tensors, roles):
                trained.setdefault(part, []).extend(roles.values())
    if trained:
        raise LoraError(explain(trained))
    return tuple(
        f"ignored {part.what} ({sum(map(len, layers)):,} tensors), which are zero"
        for part, layers in idle.items()
    )


def _changes_nothing(tensors: Mapping[str, Tensor], roles: Mapping[Role, str]) -> bool:
    """Returns True if a factor is zero, and with it the layer's product, and so are differences."""
    differences = [roles[role] for role in (Role.DIFF, Role.DIFF_B) if role in roles]
    factors = {*roles.values()}.difference(differences, [roles.get(Role.ALPHA, "")])
    unchanged = any(is_zero(tensors[name]) for name in factors) or (differences and not factors)
    return bool(unchanged) and all(is_zero(tensors[name]) for name in differences)
