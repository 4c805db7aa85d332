"""The values of a LoRA file: factors of what is added to a matrix, with the scale folded in.

`read_pair` checks that values are finite, also when scaled. Names, shapes and element types were
checked before, from the header (`plan`). Those of a LoHa and a LoKr are in `loha` and `lokr`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from wuliart_lora.alpha import check_alpha
from wuliart_lora.errors import LoraError, shown
from wuliart_lora.keys import Role
from wuliart_lora.reader import Tensor
from wuliart_lora.scale import Stated, agree
from wuliart_lora.tensor_values import Float32Array, bits, largest, read_number, widened


@dataclass(frozen=True, slots=True)
class LoraFactors:
    """The factors of what an adapter adds to one linear layer at weight 1: `up @ down`.

    `down` is float32 [rank, in_features] (A), `up` float32 [out_features, rank] (B) times the
    module's scale. Either may be a read-only view of the file's bytes.
    """

    down: Float32Array
    up: Float32Array
    rank: int


class KroneckerFactors(NamedTuple):
    """The factors of what an adapter adds to one linear layer at weight 1: `kron(first, second)`.

    `first` is float32 [a, b] with the module's scale, `second` float32 [c, d].
    """

    first: Float32Array
    second: Float32Array


class LoraBits(NamedTuple):
    """`LoraFactors` in bfloat16, as uint16: read-only views of the file's bytes."""

    down: npt.NDArray[np.uint16]
    up: npt.NDArray[np.uint16]


class StoredFactors(Protocol):
    """A module's factors as the file has them."""

    @property
    def scale(self) -> float:
        """The scale of the module's product."""

    def widened(self) -> LoraFactors:
        """Returns the factors in float32; computed again by each call."""

    def bfloat16(self) -> LoraBits | None:
        """Returns the factors as bfloat16 if the file holds these bits; None if it does not."""


class Pair(NamedTuple):
    """The factors of a plain LoRA."""

    down: Tensor
    up: Tensor
    scale: float

    def widened(self) -> LoraFactors:
        """Returns the factors in float32."""
        wide = widened(self.up)
        if self.scale != 1.0:
            # A view of the file is read-only; a widened copy is scaled in place.
            out = wide if wide.flags.writeable else None
            wide = np.multiply(wide, np.float32(self.scale), out=out)
        return LoraFactors(widened(self.down), wide, self.down.shape[0])

    def bfloat16(self) -> LoraBits | None:
        """Returns the bits of a bfloat16 file whose scale is 1, else None."""
        down, up = self.down, self.up
        if self.scale != 1.0 or {down.dtype, up.dtype} != {"BF16"}:
            return None
        return LoraBits(bits(down).reshape(down.shape), bits(up).reshape(up.shape))


class StoredKronecker(Protocol):
    """A module's Kronecker factors as the file has them."""

    @property
    def first_shape(self) -> tuple[int, int]:
        """Rows and columns of the first factor."""

    def widened(self) -> KroneckerFactors:
        """Returns the factors in float32; computed again by each call."""


class ModuleFactors(Mapping[str, LoraFactors]):
    """Module path -> `LoraFactors`.

    Each access widens the factors to float32 again, so that not all of them are in memory at once.
    """

    def __init__(self, stored: Mapping[str, StoredFactors]) -> None:
        self._stored = stored

    def __getitem__(self, module: str) -> LoraFactors:
        return self._stored[module].widened()

    def bfloat16(self, module: str) -> LoraBits | None:
        """Returns the factors as bfloat16 if the file holds these bits; None if it does not.

        Raises:
            KeyError: there is no such module.
        """
        return self._stored[module].bfloat16()

    def __contains__(self, module: object) -> bool:
        return module in self._stored

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)


@dataclass(frozen=True, slots=True)
class LoraAdapter:
    """A whole adapter; tensors are keyed by module path."""

    factors: ModuleFactors
    kronecker: Mapping[str, StoredKronecker]
    """Modules whose matrix changes by a Kronecker product instead of a low-rank one."""
    biases: Mapping[str, Float32Array]
    """[out_features], added to the bias of a linear layer."""
    norms: Mapping[str, Float32Array]
    """[features], added to the weight of a norm."""
    rank: int
    """The largest of `factors`; 0 if there are none."""
    title: str | None
    trigger_words: tuple[str, ...]
    notes: tuple[str, ...]
    """What the file holds and the adapter does not, as sentences for users."""


def read_pair(
    tensors: Mapping[str, Tensor],
    module: str,
    roles: Mapping[Role, str],
    rank: int,
    stated: Stated | None,
) -> Pair:
    """Reads a module's factors, and checks that they are finite, also when scaled.

    Args:
        tensors: the file's, by name.
        module: the module's path.
        roles: role -> name of the module's tensor.
        rank: of the factors.
        stated: the scale that is written outside of tensors, None if none is.

    Raises:
        LoraError: a value is not finite, or the `.alpha` tensor contradicts `stated`.
    """
    down_name, up_name = roles[Role.DOWN], roles[Role.UP]
    down, up = tensors[down_name], tensors[up_name]
    scale = read_scale(tensors, module, roles, rank, stated)
    largest(down_name, down)
    with np.errstate(over="ignore"):
        finite = np.isfinite(largest(up_name, up) * np.float32(scale))
    if not finite:
        raise LoraError(
            f"{shown(up_name)!r} times its scale of {scale:g} exceeds the range of float32; "
            "the LoRA is damaged"
        )
    return Pair(down, up, scale)


def read_vector(name: str, tensor: Tensor) -> Float32Array:
    """Returns what is added to a bias or a norm; raises `LoraError` if a value is not finite."""
    largest(name, tensor)
    return widened(tensor)


def read_scale(
    tensors: Mapping[str, Tensor],
    module: str,
    roles: Mapping[Role, str],
    rank: int,
    stated: Stated | None,
) -> float:
    """Returns a module's scale; arguments and errors as for `read_pair`."""
    name = roles.get(Role.ALPHA)
    if name is None:
        return 1.0 if stated is None else stated.scale
    scale = check_alpha(read_number(tensors[name]), repr(shown(name))) / rank
    return scale if stated is None else agree(Stated(scale, repr(shown(name))), stated, module)
