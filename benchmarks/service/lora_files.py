"""Random LoRA files of a wanted size for the embedded model. No torch, no server."""

from __future__ import annotations

import numpy as np
from safetensors.numpy import save

from wuliart_lora.slot_layout import LowRankSite, SegmentLayout


def random_adapter(layout: SegmentLayout, rank: int, seed: int, scale: float = 0.02) -> bytes:
    """A PEFT-style file that acts on every module of the layout."""
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
