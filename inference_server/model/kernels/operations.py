"""Types and constants of the operations between the matrix products.

`reference` implements `Operations` in PyTorch, `triton_ops` with fused kernels; `choice` picks one
for a device. Shapes: T text tokens, I image tokens, D features of a token (width), H heads of E
features each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from inference_server.model.rope import Rotation

EPS = 1e-6
"""Epsilon of all layer and RMS norms; diffusers `transformer_qwenimage.py`."""
E4M3_MAX = 448.0
"""Largest finite value of float8_e4m3fn."""
TINY = 1e-12
"""Lower bound of a row's maximum or length, so that a row of zeros divides by something."""


class HeadNorms(NamedTuple):
    """RMS norm scales of one stream's queries and keys, and the stream's rotation."""

    query: Tensor
    """[E]"""
    key: Tensor
    """[E]"""
    rotation: Rotation


class Quantized(NamedTuple):
    """A float8 matrix with one scale per row; the matrix meant is values * scale."""

    values: Tensor
    """[rows, columns], float8_e4m3fn."""
    scale: Tensor
    """[rows, 1], float32."""


Normed = Tensor | Quantized
"""Result of a norm, [tokens, D]; quantized if the next product is a float8 one."""


class KroneckerProduct(NamedTuple):
    """What an adapter adds to one part's matrix: the Kronecker product of two small ones."""

    part: int
    """Number of the part within its product."""
    first: Tensor
    """[a, b], for a part of [a c, b d]; the scale is folded in."""
    second: Tensor
    """[c, d]"""


class Operations(Protocol):
    """The operations between the products; implemented by modules."""

    QUERY_MULTIPLE: int
    """`attention` takes a number of rows that is a multiple of this."""

    def modulated_norm(
        self,
        x: Tensor,
        shift: Tensor,
        one_plus_scale: Tensor,
        *,
        quantized: bool,
        spare_columns: int = 0,
    ) -> Normed:
        """Computes LayerNorm(x) * (1 + scale) + shift.

        Args:
            x: [tokens, D].
            shift: [D].
            one_plus_scale: [D].
            quantized: return a `Quantized` instead of a tensor in x's dtype.
            spare_columns: uninitialised columns behind each row of an unquantized result.

        Returns:
            [tokens, D].
        """

    def residual_norm_(
        self,
        x: Tensor,
        branch: Tensor,
        gate: Tensor,
        *,
        shift: Tensor,
        one_plus_scale: Tensor,
        quantized: bool,
        spare_columns: int = 0,
    ) -> Normed:
        """Adds gate * branch to x in place and returns the modulated norm of the sum.

        Args:
            x: [tokens, D]; changed.
            branch: [tokens, D].
            gate: [D].
            shift: [D].
            one_plus_scale: [D].
            quantized: see `modulated_norm`.
            spare_columns: see `modulated_norm`.

        Returns:
            [tokens, D].
        """

    def norm_rotate_(self, qkv: Tensor, txt: HeadNorms, img: HeadNorms) -> None:
        """Applies RMS norm and rotary embedding to queries and keys in place.

        Args:
            qkv: [T + I, 3 D], text rows first; queries, keys and values of all heads side by side.
            txt: norms and rotation of the first T rows.
            img: norms and rotation of the other I rows.
        """

    def attention(
        self,
        qkv: Tensor,
        *,
        heads: int,
        text_tokens: int,
        image_tokens: int,
        spare_columns: int = 0,
    ) -> Tensor:
        """Computes full attention over all tokens; one image has no padding and needs no mask.

        Args:
            qkv: [P + T + I, 3 D]; P leading rows of arbitrary content pad the number of rows to a
                multiple of `QUERY_MULTIPLE`.
            heads: H.
            text_tokens: T.
            image_tokens: I.
            spare_columns: uninitialised columns behind each row of the result.

        Returns:
            [P + T + I, D]; the first P rows are meaningless.
        """

    def linear_gelu(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Computes gelu(x weight^T + bias), the tanh approximation.

        Args:
            x: [tokens, in].
            weight: [out, in].
            bias: [out].

        Returns:
            [tokens, out].
        """

    def add_kronecker_(
        self,
        y: Tensor,
        x: Tensor,
        products: Sequence[KroneckerProduct],
        gate: float,
        *,
        gelu: bool = False,
    ) -> None:
        """Adds gate * x kron(first, second)^T to the columns of each product's part, in place.

        With a token of x as a matrix [b, d], what is added is first x second^T, of [a, c].

        Args:
            y: [tokens, parts * out].
            x: [tokens, in].
            products: at least one; those of one adapter at one site.
            gate: the adapter's weight.
            gelu: apply gelu (tanh approximation) to the sum; there is one part then.
        """

    def quantize(self, x: Tensor, *, gelu: bool = False) -> Quantized:
        """Scales each row so that its largest magnitude becomes 448, and rounds to e4m3.

        Args:
            x: [rows, columns].
            gelu: apply gelu (tanh approximation) first.
        """

    def scaled_linear(
        self, x: Quantized, weight: Quantized, bias: Tensor, *, out: Tensor | None = None
    ) -> Tensor:
        """Computes x weight^T + bias of quantized matrices, in the bias's dtype.

        Args:
            x: [tokens, in].
            weight: [out, in].
            bias: [out].
            out: where the result goes, [tokens, out]; None: a new tensor.

        Returns:
            [tokens, out].
        """

    def channel_norm(self, x: Tensor, gamma: Tensor, *, activate: bool) -> Tensor:
        """Computes x / |x| * gamma over channels, optionally followed by SiLU.

        Args:
            x: [N, C, height, width], channels last in memory.
            gamma: [C]; the VAE's factor sqrt(C) is included.
            activate: apply SiLU.

        Returns:
            A tensor shaped and laid out as x.
        """
