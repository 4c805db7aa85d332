"""Compiles the GPU kernels at their full-size shapes, for cards that need not be present.

`python -m tests.support.compile_kernels` prints a line per kernel. It is a process of its own
because Triton chooses between compiling and interpreting when it is imported.
"""

from __future__ import annotations

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from inference_server.model.kernels import (
    triton_attention,
    triton_folding,
    triton_kronecker,
    triton_norms,
    triton_ops,
)

CAPABILITIES = (89, 90)
"""Ada (RTX 4090) and Hopper."""
BF16, FP32, FP8 = "*bf16", "*fp32", "*fp8e4nv"

NORM = dict.fromkeys(("x", "branch", "gate", "shift", "scale", "out"), BF16)
NORM |= {"row_scales": FP32, "width": "i32", "out_stride": "i32"} | dict.fromkeys(
    ("eps", "largest", "tiny"), "fp32"
)
ROTATE = dict.fromkeys(("qkv", "txt_query", "txt_key", "img_query", "img_key"), BF16)
ROTATE |= dict.fromkeys(("txt_cos", "txt_sin", "img_cos", "img_sin"), FP32)
ROTATE |= {"texts": "i32", "heads": "i32", "eps": "fp32"}
QUANTIZE = {"x": BF16, "values": FP8, "scales": FP32, "width": "i32"}
QUANTIZE |= {"largest": "fp32", "tiny": "fp32"}
TEXT_KEYS = {"qkv": BF16, "out": BF16, "target": BF16, "sums": FP32, "softmax_scale": "fp32"}
TEXT_KEYS |= dict.fromkeys(("rows", "first", "texts", "heads", "target_stride"), "i32")
TEXT_KEYS_SHAPE = {"size": 128, "padded": 128, "queries": 64, "keys": 64}
CHANNELS = {"x": BF16, "gamma": BF16, "out": BF16, "pixels": "i32", "channels": "i32"}
FOLD = {"table": "*i64", "like": BF16}
FOLD_SHAPE = {"fields": 13, "columns": 16, "features": 512, "aligned": True}
REDUCE = {"x": BF16, "window": BF16}
REDUCE |= dict.fromkeys(("rows", "columns", "inside", "stride", "each"), "i32")
REDUCE_SHAPE = {"together": 64, "wide": 16, "deep": 128, "even": True}
KRONECKER = dict.fromkeys(("x", "y"), BF16)
KRONECKER |= {f"{factor}_{n}": BF16 for n in range(3) for factor in ("first", "second")}
KRONECKER |= dict.fromkeys(("tokens", "x_stride", "y_stride"), "i32") | {"gate": "fp32"}
KRONECKER_SHAPES = (
    ({"products": 3, "a": 48, "b": 48, "c": 64, "d": 64, "together": 1}, (64, 64, 64, 64), 4),
    ({"products": 1, "a": 96, "b": 48, "c": 128, "d": 64, "together": 1}, (128, 64, 128, 64), 8),
    ({"products": 1, "a": 48, "b": 96, "c": 64, "d": 128, "together": 1}, (64, 128, 64, 64), 4),
    ({"products": 1, "a": 16, "b": 16, "c": 768, "d": 192, "together": 4}, (64, 64, 128, 64), 4),
)
"""Of ai-toolkit's default and, last, of factor 16; rows, inner, wide and deep of a tile, warps."""

KERNELS = (
    (triton_norms._norm_kernel, NORM, {"add": False, "quantized": False, "padded": 4096}, 8),
    (triton_norms._norm_kernel, NORM, {"add": True, "quantized": False, "padded": 4096}, 8),
    (
        triton_norms._norm_kernel,
        NORM | {"out": FP8},
        {"add": True, "quantized": True, "padded": 4096},
        8,
    ),
    (triton_ops._norm_rotate_kernel, ROTATE, {"size": 128, "padded": 128, "group": 32}, 4),
    (triton_ops._quantize_kernel, QUANTIZE, {"gelu": False, "padded": 4096}, 8),
    (triton_ops._quantize_kernel, QUANTIZE, {"gelu": True, "padded": 16_384}, 8),
    (triton_attention._text_keys_kernel, TEXT_KEYS, TEXT_KEYS_SHAPE, 8),
    (triton_folding._fold_kernel, FOLD, FOLD_SHAPE, 4),
    (triton_folding._reduce_kernel, REDUCE, REDUCE_SHAPE, 4),
    *(
        (
            triton_kronecker._kronecker_kernel,
            KRONECKER,
            shape
            | dict(zip(("rows", "inner", "wide", "deep"), tile, strict=True))
            | {"groups": triton_kronecker.GROUPS, "gelu": shape["c"] == 128},
            warps,
        )
        for shape, tile, warps in KRONECKER_SHAPES
    ),
    (triton_norms._channel_norm_kernel, CHANNELS, {"activate": True, "padded": 128, "rows": 32}, 8),
)
"""Kernel, types of its arguments, its constants, warps."""


def main() -> None:
    """Compiles every kernel to machine code."""
    for capability in CAPABILITIES:
        target = GPUTarget("cuda", capability, 32)
        for kernel, types, constants, warps in KERNELS:
            signature = types | dict.fromkeys(constants, "constexpr")
            # In the order of the function's arguments.
            ordered = {name: signature[name] for name in kernel.arg_names}
            source = ASTSource(fn=kernel, signature=ordered, constexprs=constants)
            compiled = triton.compile(source, target=target, options={"num_warps": warps})
            print(f"sm_{capability} {kernel.__name__} {len(compiled.asm['cubin'])} bytes")


if __name__ == "__main__":
    main()
