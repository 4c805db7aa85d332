"""The values of a LoRA file: low-rank factors of modules, with the scale folded into `up`.

`read_pair` checks that values are finite, also when scaled. Names, shapes and element types were
checked before, from the header (`plan`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from wuliart_lora.alpha import check_alpha
from wuliart_lora.errors import LoraError, shown
from wuliart_lora.keys import Role
from wuliart_lora.reader import DTYPE_BYTES, Tensor
from wuliart_lora.scale import Stated, agree

Float32Array = npt.NDArray[np.float32]

INFINITY: Final = {
    "F8_E4M3": 0x7F, "F8_E5M2": 0x7C, "F16": 0x7C00, "BF16": 0x7F80, "F32": 0x7F80_0000,
}  # fmt: skip
"""Bits of infinity, or of NaN for F8_E4M3, which has no infinity. Without the sign bit, every
finite value is below this number and every NaN is not."""

_ELEMENTS: Final = {1: "u1", 2: "<u2", 4: "<u4"}
"""Bytes of an element -> unsigned integer type of that size."""

_ALPHA_FORMATS: Final = {"F64": "<d", "I32": "<i", "I64": "<q"}


@dataclass(frozen=True, slots=True)
class LoraFactors:
    """The factors of what an adapter adds to one linear layer at weight 1: `up @ down`.

    `down` is float32 [rank, in_features] (A), `up` float32 [out_features, rank] (B) times the
    module's scale. Either may be a read-only view of the file's bytes.
    """

    down: Float32Array
    up: Float32Array
    rank: int


class LoraBits(NamedTuple):
    """`LoraFactors` in bfloat16, as uint16: read-only views of the file's bytes."""

    down: npt.NDArray[np.uint16]
    up: npt.NDArray[np.uint16]


class Pair(NamedTuple):
    """A module's factors as the file has them."""

    down: Tensor
    up: Tensor
    rank: int
    scale: float


class ModuleFactors(Mapping[str, LoraFactors]):
    """Module path -> `LoraFactors`.

    Each access widens the factors to float32 again, so that not all of them are in memory at once.
    """

    def __init__(self, pairs: Mapping[str, Pair]) -> None:
        self._pairs = pairs

    def __getitem__(self, module: str) -> LoraFactors:
        down, up, rank, scale = self._pairs[module]
        wide = _widened(up)
        if scale != 1.0:
            # A view of the file is read-only; a widened copy is scaled in place.
            out = wide if wide.flags.writeable else None
            wide = np.multiply(wide, np.float32(scale), out=out)
        return LoraFactors(_widened(down), wide, rank)

    def bfloat16(self, module: str) -> LoraBits | None:
        """Returns the factors as bfloat16 if the file holds these bits; None if it does not.

        Raises:
            KeyError: there is no such module.
        """
        down, up, _, scale = self._pairs[module]
        if scale != 1.0 or {down.dtype, up.dtype} != {"BF16"}:
            return None
        return LoraBits(_bits(down).reshape(down.shape), _bits(up).reshape(up.shape))

    def __contains__(self, module: object) -> bool:
        return module in self._pairs

    def __iter__(self) -> Iterator[str]:
        return iter(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)


@dataclass(frozen=True, slots=True)
class LoraAdapter:
    """A whole adapter; `factors` is keyed by module path, `rank` is the largest of them."""

    factors: ModuleFactors
    rank: int
    title: str | None
    trigger_words: tuple[str, ...]


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
    scale = _scale(tensors, module, roles, rank, stated)
    _largest(down_name, down)
    with np.errstate(over="ignore"):
        finite = np.isfinite(_largest(up_name, up) * np.float32(scale))
    if not finite:
        raise LoraError(
            f"{shown(up_name)!r} times its scale of {scale:g} exceeds the range of float32; "
            "the LoRA is damaged"
        )
    return Pair(down, up, rank, scale)


def _bits(tensor: Tensor) -> npt.NDArray[np.unsignedinteger]:
    return np.frombuffer(tensor.data, _ELEMENTS[DTYPE_BYTES[tensor.dtype]])


def _largest(name: str, tensor: Tensor) -> np.float32:
    """Returns the largest magnitude; raises `LoraError` if it is not finite."""
    bits = _bits(tensor)
    # All but the sign.
    magnitude = (bits & bits.dtype.type((1 << (8 * bits.itemsize - 1)) - 1)).max()
    if magnitude >= INFINITY[tensor.dtype]:
        raise LoraError(
            f"{shown(name)!r} holds values that are infinite or not a number; the LoRA is damaged, "
            "usually by training that diverged"
        )
    return _as_float32(magnitude[None], tensor.dtype)[0]  # type: ignore[no-any-return]


def _widened(tensor: Tensor) -> Float32Array:
    return _as_float32(_bits(tensor), tensor.dtype).reshape(tensor.shape)


def _as_float32(bits: npt.NDArray[np.unsignedinteger], dtype: str) -> Float32Array:
    if dtype == "F32":
        return bits.view(np.float32)
    if dtype == "F16":
        return bits.view(np.float16).astype(np.float32)
    if dtype in _EIGHT_BITS:
        wide_eight: Float32Array = np.take(_EIGHT_BITS[dtype], bits)
        return wide_eight
    # bfloat16 is the upper half of a float32.
    wide = bits.astype(np.uint32)
    wide <<= np.uint32(16)
    return wide.view(np.float32)


def _eight_bits(exponent_bits: int, bias: int) -> Float32Array:
    """Returns the values of the 256 bit patterns of an 8-bit float.

    Entries of patterns for infinity and NaN are meaningless. Source: arXiv 2209.05433.
    """
    bits = np.arange(256)
    mantissa_bits = 7 - exponent_bits
    exponent = (bits >> mantissa_bits) & ((1 << exponent_bits) - 1)
    fraction = (bits & ((1 << mantissa_bits) - 1)) / (1 << mantissa_bits)
    magnitude = np.where(exponent > 0, 1 + fraction, fraction) * 2.0 ** (
        np.maximum(exponent, 1) - bias
    )
    signed: Float32Array = np.where(bits < 0x80, magnitude, -magnitude).astype(np.float32)
    return signed


_EIGHT_BITS: Final = {"F8_E4M3": _eight_bits(4, bias=7), "F8_E5M2": _eight_bits(5, bias=15)}


def _scale(
    tensors: Mapping[str, Tensor],
    module: str,
    roles: Mapping[Role, str],
    rank: int,
    stated: Stated | None,
) -> float:
    name = roles.get(Role.ALPHA)
    if name is None:
        return 1.0 if stated is None else stated.scale
    scale = check_alpha(_read_number(tensors[name]), repr(shown(name))) / rank
    return scale if stated is None else agree(Stated(scale, repr(shown(name))), stated, module)


def _read_number(tensor: Tensor) -> float:
    if tensor.dtype in INFINITY:
        return float(_widened(tensor).reshape(()))
    return float(struct.unpack(_ALPHA_FORMATS[tensor.dtype], tensor.data)[0])
