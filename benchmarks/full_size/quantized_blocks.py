"""What eight-bit weights cost in exactness, block by block.

`python -m benchmarks.full_size.quantized_blocks`: the embedded model's transformer on the CPU,
every block given what the exact one before it made; `benchmarks.full_size fp8` does the same at
full size.
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


def per_block(exact: Transformer, eight: Transformer, image: ImageInputs) -> list[float]:
    """Error of what each eight-bit block adds to the image stream, relative to what is added.

    Args:
        exact: decides what every block reads.
        eight: the same network with other weights.
        image: at some noise level.
    """
    img, txt = exact.begin(image)
    errors = []
    for index, (weights, rounded) in enumerate(zip(exact.blocks, eight.blocks, strict=True)):
        others = copy.deepcopy((img, txt))
        before = img.x.float().clone()
        exact.through(index, weights, image, img=img, txt=txt)
        eight.through(index, rounded, image, img=others[0], txt=others[1])
        added = img.x.float() - before
        errors.append(float((others[0].x.float() - before - added).norm() / added.norm()))
    return errors


@torch.inference_mode()
def main() -> None:
    """Prints a line for each block, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()

    def load(kind: WeightKind) -> Engine:
        source = open_source(EMBEDDED_MODEL, EMBEDDED_TURBO)
        return Engine(load_model(source, torch.device("cpu"), torch.float32, weights=kind))

    exact, eight = load(WeightKind.BF16), load(WeightKind.FP8)
    drawing = exact.begin(exact.encode(PROMPT), 1, 4)
    image = ImageInputs(
        drawing.latents, drawing.prompt.states, drawing.prompt.rotation, drawing.modulation[0]
    )
    errors = per_block(exact.model.transformer, eight.model.transformer, image)
    for index, error in enumerate(errors):
        print(f"block {index:2}  {100 * error:5.2f} %")
    line = json.dumps({"model": "embedded", "per_block": [round(error, 5) for error in errors]})
    print(line)
    if chosen.out:
        chosen.out.write_text(line + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
