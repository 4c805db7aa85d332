"""The error of float8 weights, block by block.

`python -m benchmarks.full_size quantized_blocks` measures the embedded model's transformer on the
CPU; every block gets the exact output of the one before. `parts fp8` measures the full size.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path

import torch

from inference_server.config import EMBEDDED_MODEL, EMBEDDED_TURBO
from inference_server.engine.engine import Engine
from inference_server.loading.load import load_model
from inference_server.loading.sources import open_source
from inference_server.model.transformer import ImageInputs, Transformer
from inference_server.weight_kind import WeightKind

PROMPT = "a rocket on a purple background"


def per_block(exact: Transformer, quantized: Transformer, image: ImageInputs) -> list[float]:
    """Measures the relative error of what each quantized block adds to the image stream.

    Args:
        exact: its streams are the input of every block.
        quantized: the same network with quantized weights.
        image: an image's inputs, without adapters.
    """
    img, txt = exact.begin(image)
    errors = []
    for index, (weights, rounded) in enumerate(zip(exact.blocks, quantized.blocks, strict=True)):
        others = copy.deepcopy((img, txt))
        before = img.x.float().clone()
        exact.run_block(index, weights, image, img=img, txt=txt)
        quantized.run_block(index, rounded, image, img=others[0], txt=others[1])
        added = img.x.float() - before
        errors.append(float((others[0].x.float() - before - added).norm() / added.norm()))
    return errors


@torch.inference_mode()
def main() -> None:
    """Prints a line per block, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()

    def load(kind: WeightKind) -> Engine:
        source = open_source(EMBEDDED_MODEL, EMBEDDED_TURBO)
        return Engine(load_model(source, torch.device("cpu"), torch.float32, weights=kind))

    exact, quantized = load(WeightKind.BF16), load(WeightKind.FP8)
    begun = exact.begin(exact.encode(PROMPT), 1, 4)
    image = ImageInputs(
        begun.latents, begun.prompt.states, begun.prompt.rotation, begun.modulation[0]
    )
    errors = per_block(exact.model.transformer, quantized.model.transformer, image)
    for index, error in enumerate(errors):
        print(f"block {index:2}  {100 * error:5.2f} %")
    line = json.dumps({"model": "embedded", "per_block": [round(error, 5) for error in errors]})
    print(line)
    if chosen.out:
        chosen.out.write_text(line + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
