"""How a checkpoint's matrices are stored, what becomes of them, and the messages about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final, NamedTuple

from inference_server.model.weights.component_weights import ComponentWeights
from inference_server.weight_kind import WeightKind

PLAIN: Final = ("BF16", "F16", "F32", "F64")
"""Element types that are not quantised."""

GRID: Final = (
    "{file} holds float8 weights without scales, and {lora} was trained on bf16 weights: their sum "
    "shows a grid in the images. Use a scaled fp8 file, bf16, or GGUF"
)


class Remark(NamedTuple):
    """A line for the operator about how the weights are stored."""

    text: str
    warning: bool = False


class StoredForm:
    """The forms of a transformer's block matrices.

    Args:
        weights: the transformer's.
        matrices: names of the matrices whose kind the engine chooses.
    """

    def __init__(self, weights: ComponentWeights, matrices: Iterable[str]) -> None:
        self._weights = weights
        self._matrices = tuple(matrices)
        self._float8 = sum(map(weights.is_float8, self._matrices))
        self._full = any(map(weights.asks_for_full_precision, self._matrices))

    @property
    def kind(self) -> WeightKind:
        """The engine's kind that keeps most matrices as they are stored."""
        if 2 * self._float8 > len(self._matrices) and not self._full:
            return WeightKind.FP8
        return WeightKind.BF16

    def remarks(self, kind: WeightKind, turbo_lora: str) -> list[Remark]:
        """Returns what the operator should know.

        Args:
            kind: how the engine stores the matrices.
            turbo_lora: file name of the few-step LoRA that is fused; empty for none.
        """
        weights = self._weights
        forms = Counter(weights.stored_as(name) for name in self._matrices)
        found = []
        if forms.keys() - set(PLAIN):
            held = ", ".join(f"{count} as {form}" for form, count in forms.most_common())
            found.append(
                Remark(f"the blocks' matrices are stored {held}; {self._fate(kind, turbo_lora)}")
            )
        if turbo_lora and forms["F8_E4M3"] + forms["F8_E5M2"]:
            found.append(
                Remark(GRID.format(file=weights.where.name, lora=turbo_lora), warning=True)
            )
        return found

    def _fate(self, kind: WeightKind, turbo_lora: str) -> str:
        if kind is WeightKind.BF16:
            why = ", as the file asks for products in full precision" if self._full else ""
            return f"they are widened to bf16{why}"
        if not self._float8:
            return "they are widened and quantised anew, as fp8 with a scale for each row"
        fate = "the F8_E4M3 ones keep their bits as fp8"
        if self._float8 < len(self._matrices):
            fate += ", the others are quantised anew, with a scale for each row"
        return f"{fate}, except where {turbo_lora} is fused" if turbo_lora else fate
