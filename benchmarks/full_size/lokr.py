"""A LoKr of ai-toolkit's default at Qwen-Image's real size: in a slot, and as a file.

Both factors are whole, and of each dimension's two divisors that are most alike: 48 x 48 and
64 x 64 for a matrix of 3072 x 3072.
"""

from __future__ import annotations

import torch
from peft.tuners.lokr.layer import factorization
from safetensors.torch import save

from benchmarks.full_size.transformer_pair import TransformerPair
from inference_server.adapters.segment import AdapterSegment
from inference_server.engine.loaded_model import slot_layout
from inference_server.model.kernels import reference, triton_kronecker
from inference_server.model.kernels.low_rank import GatedAdapter
from inference_server.model.kernels.operations import KroneckerProduct
from wuliart_lora.slot_image import module_shapes
from wuliart_lora.slot_layout import LowRankSite, SegmentLayout

SHAPES = ((3072, 3072, 3), (3072, 3072, 1), (3072, 12288, 1), (12288, 3072, 1))
"""in, out and parts of a block's products."""


def random_lokr(pair: TransformerPair) -> GatedAdapter:
    """Returns a random LoKr of every layer, the timestep-only ones as tables."""
    layout = slot_layout(pair.config, pair.schedules, torch.bfloat16, 16)
    segment = AdapterSegment(layout, 1, pair.device)
    segment._arena.view(torch.bfloat16).normal_(0, 0.01)
    features = module_shapes(layout)
    shapes = {
        module: (factorization(features[module][1])[0], factorization(features[module][0])[0])
        for module, (site, _) in layout.modules.items()
        if isinstance(site, LowRankSite)
    }
    return GatedAdapter(segment.tensors(0, 0, layout.delta_sites, shapes), 1.0)


def lokr_file(layout: SegmentLayout, seed: int) -> bytes:
    """Returns a LoKr file of every layer in bf16."""
    torch.manual_seed(seed)
    tensors = {}
    for module, (inside, out) in module_shapes(layout).items():
        (b, d), (a, c) = factorization(inside), factorization(out)
        for name, shape in (("lokr_w1", (a, b)), ("lokr_w2", (c, d))):
            values = torch.randn(shape, device="cuda", dtype=torch.bfloat16).mul_(0.01)
            tensors[f"diffusion_model.{module}.{name}"] = values.cpu()
        alpha = torch.tensor(9_999_999_999.0, dtype=torch.bfloat16)
        tensors[f"diffusion_model.{module}.alpha"] = alpha
    return save(tensors)


def check_kernel(device: torch.device) -> dict[str, float]:
    """Returns the kernel's relative difference from the float32 reference, by product."""
    torch.manual_seed(0)
    found = {}
    for inside, out, parts in SHAPES:
        (b, d), (a, c) = factorization(inside), factorization(out)
        x = torch.randn(4096, inside, device=device)
        y = torch.zeros(4096, parts * out, device=device)
        products = [
            KroneckerProduct(
                part, torch.randn(a, b, device=device) / b, torch.randn(c, d, device=device)
            )
            for part in range(parts)
        ]
        half = [KroneckerProduct(p, f.bfloat16(), s.bfloat16()) for p, f, s in products]
        got = y.bfloat16()
        triton_kronecker.add_kronecker_(got, x.bfloat16(), half, 1.0)
        whole = [KroneckerProduct(p, f.float(), s.float()) for p, f, s in half]
        reference.add_kronecker_(y, x.bfloat16().float(), whole, 1.0)
        name = f"{inside} -> {parts} x {out}"
        found[name] = float((got.float() - y).norm() / y.norm())
    return found
