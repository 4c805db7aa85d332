"""Values of a LoRA file's tensors: bits of 8 to 32 bits an element, widened to float32."""

from __future__ import annotations

import struct
from typing import Final

import numpy as np
import numpy.typing as npt

from wuliart_lora.errors import LoraError, shown
from wuliart_lora.reader import DTYPE_BYTES, Tensor

Float32Array = npt.NDArray[np.float32]

INFINITY: Final = {
    "F8_E4M3": 0x7F, "F8_E5M2": 0x7C, "F16": 0x7C00, "BF16": 0x7F80, "F32": 0x7F80_0000,
}  # fmt: skip
"""Bits of infinity, or of NaN for F8_E4M3, which has no infinity. Without the sign bit, every
finite value is below this number and every NaN is not."""

_ELEMENTS: Final = {1: "u1", 2: "<u2", 4: "<u4"}
"""Bytes of an element -> unsigned integer type of that size."""

_ALPHA_FORMATS: Final = {"F64": "<d", "I32": "<i", "I64": "<q"}


def is_zero(tensor: Tensor) -> bool:
    """Returns True if all values are zero, of either sign; False for a type that is not read."""
    if tensor.dtype not in INFINITY:
        return False
    return tensor.data.nbytes == 0 or not _magnitudes(bits(tensor)).any()


def bits(tensor: Tensor) -> npt.NDArray[np.unsignedinteger]:
    """Returns a view of the elements as unsigned integers, flat."""
    return np.frombuffer(tensor.data, _ELEMENTS[DTYPE_BYTES[tensor.dtype]])


def largest(name: str, tensor: Tensor) -> np.float32:
    """Returns the largest magnitude; raises `LoraError` if it is not finite."""
    magnitude = _magnitudes(bits(tensor)).max()
    if magnitude >= INFINITY[tensor.dtype]:
        raise LoraError(
            f"{shown(name)!r} holds values that are infinite or not a number; the LoRA is damaged, "
            "usually by training that diverged"
        )
    return _as_float32(magnitude[None], tensor.dtype)[0]  # type: ignore[no-any-return]


def _magnitudes(elements: npt.NDArray[np.unsignedinteger]) -> npt.NDArray[np.unsignedinteger]:
    """Returns all bits but the sign's."""
    mask = elements.dtype.type((1 << (8 * elements.itemsize - 1)) - 1)
    magnitudes: npt.NDArray[np.unsignedinteger] = elements & mask
    return magnitudes


def widened(tensor: Tensor) -> Float32Array:
    """Returns the values in the tensor's shape: a read-only view of the file, or a copy."""
    return _as_float32(bits(tensor), tensor.dtype).reshape(tensor.shape)


def _as_float32(elements: npt.NDArray[np.unsignedinteger], dtype: str) -> Float32Array:
    if dtype == "F32":
        return elements.view(np.float32)
    if dtype == "F16":
        return elements.view(np.float16).astype(np.float32)
    if dtype in _EIGHT_BITS:
        wide_eight: Float32Array = np.take(_EIGHT_BITS[dtype], elements)
        return wide_eight
    # bfloat16 is the upper half of a float32.
    wide = elements.astype(np.uint32)
    wide <<= np.uint32(16)
    return wide.view(np.float32)


def _eight_bits(exponent_bits: int, bias: int) -> Float32Array:
    """Returns the values of the 256 bit patterns of an 8-bit float.

    Entries of patterns for infinity and NaN are meaningless. Source: arXiv 2209.05433.
    """
    patterns = np.arange(256)
    mantissa_bits = 7 - exponent_bits
    exponent = (patterns >> mantissa_bits) & ((1 << exponent_bits) - 1)
    fraction = (patterns & ((1 << mantissa_bits) - 1)) / (1 << mantissa_bits)
    magnitude = np.where(exponent > 0, 1 + fraction, fraction) * 2.0 ** (
        np.maximum(exponent, 1) - bias
    )
    signed: Float32Array = np.where(patterns < 0x80, magnitude, -magnitude).astype(np.float32)
    return signed


_EIGHT_BITS: Final = {"F8_E4M3": _eight_bits(4, bias=7), "F8_E5M2": _eight_bits(5, bias=15)}


def read_number(tensor: Tensor) -> float:
    """Returns the value of a tensor of one element."""
    if tensor.dtype in INFINITY:
        return float(widened(tensor).reshape(()))
    return float(struct.unpack(_ALPHA_FORMATS[tensor.dtype], tensor.data)[0])
