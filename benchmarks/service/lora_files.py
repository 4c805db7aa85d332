"""Random LoRA files of a given rank for the embedded model."""

from __future__ import annotations

import numpy as np
from safetensors.numpy import save

from wuliart_lora.slot_layout import LowRankSite, SegmentLayout


def random_adapter(layout: SegmentLayout, rank: int, seed: int, scale: float = 0.02) -> bytes:
    """Returns a file with PEFT's key names that acts on every module of the layout.

    Args:
        layout: the slot's layout, for the modules and their sizes.
        rank: of every module.
        seed: of the random values.
        scale: standard deviation of the B factors.
    """
    random = np.random.default_rng(seed)
    tensors = {}
    for module, (site, _) in layout.modules.items():
        width = layout.parameters.width
        in_features = site.in_features if isinstance(site, LowRankSite) else width
        down = random.standard_normal((rank, in_features), dtype=np.float32)
        up = random.standard_normal((site.out_features, rank), dtype=np.float32)
        tensors[f"transformer.{module}.lora_A.weight"] = down / in_features**0.5
        tensors[f"transformer.{module}.lora_B.weight"] = up * np.float32(scale)
    return save(tensors)
