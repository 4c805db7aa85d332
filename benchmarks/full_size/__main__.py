"""Starts one of the benchmarks at Qwen-Image's real size; see `python -m benchmarks.full_size`."""

from __future__ import annotations

import sys
from importlib import import_module

BENCHMARKS = {
    "parts": "step, kernels, fp8, streaming and the decode against stock; needs an H200",
    "images": "whole images through the engine: times, memory, batches",
    "adapters": "adapters folded in and beside the products, against peft; needs an H200",
    "swap": "LoRA files that change while images are generated, staged and direct; needs an H200",
    "stock": "stock diffusers with group offload in little memory",
    "prepare": "memory and time of `wuliart-server prepare`; needs 45 to 60 GB of disk and no GPU",
    "quantized_blocks": "error of float8 weights block by block, embedded model, on a CPU",
    "projection": "times on an RTX 4090 computed from its published limits; measures nothing",
}
"""Module of this package -> what it measures."""


def main() -> None:
    """Runs the named module with the remaining arguments, or lists the modules."""
    name, arguments = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("", [])
    if name not in BENCHMARKS:
        print("usage: python -m benchmarks.full_size NAME [--help] [OPTION ...]\n")
        for known, about in BENCHMARKS.items():
            print(f"  {known:18} {about}")
        sys.exit(0 if name in ("", "-h", "--help") else f"\nno benchmark {name!r}")
    sys.argv = [f"{sys.argv[0]} {name}", *arguments]
    import_module(f"benchmarks.full_size.{name}").main()


if __name__ == "__main__":
    main()
