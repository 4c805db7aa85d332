"""Builds the transformer from its checkpoint: fuses q, k, v, packs blocks, folds modulation.

Owns the names tensors have in the diffusers checkpoint; knows nothing of the forward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from inference_server.model import packing
from inference_server.model.modulation import ReadTensor
from inference_server.model.ops import PLAIN, Ops
from inference_server.model.streaming import Streaming, arrange, place
from inference_server.model.transformer import (
    BlockWeights,
    EdgeWeights,
    StreamWeights,
    Transformer,
    TransformerConfig,
)


class StreamNames(NamedTuple):
    """Where a stream's weights stand below `transformer_blocks.N.`."""

    qkv: tuple[str, str, str]
    q_norm: str
    k_norm: str
    out: str
    mlp: str


IMG = StreamNames(
    ("attn.to_q", "attn.to_k", "attn.to_v"),
    "attn.norm_q",
    "attn.norm_k",
    "attn.to_out.0",
    "img_mlp",
)
TXT = StreamNames(
    ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "attn.norm_added_q",
    "attn.norm_added_k",
    "attn.to_add_out",
    "txt_mlp",
)


def _stream_shapes(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
    d, m, h = config.width, config.mlp_width, config.head_dim
    return {
        "qkv": (3 * d, d),
        "qkv_bias": (3 * d,),
        "q_norm": (h,),
        "k_norm": (h,),
        "out": (d, d),
        "out_bias": (d,),
        "mlp_up": (m, d),
        "mlp_up_bias": (m,),
        "mlp_down": (d, m),
        "mlp_down_bias": (d,),
    }


def _stream_sources(
    path: str, names: StreamNames, read: ReadTensor
) -> dict[str, Callable[[], Tensor]]:
    """Field of `StreamWeights` -> how to read it."""

    def one(name: str) -> Callable[[], Tensor]:
        return lambda: read(f"{path}.{name}")

    def stacked(kind: str) -> Callable[[], Tensor]:
        return lambda: torch.cat([read(f"{path}.{name}.{kind}") for name in names.qkv])

    return {
        "qkv": stacked("weight"),
        "qkv_bias": stacked("bias"),
        "q_norm": one(f"{names.q_norm}.weight"),
        "k_norm": one(f"{names.k_norm}.weight"),
        "out": one(f"{names.out}.weight"),
        "out_bias": one(f"{names.out}.bias"),
        "mlp_up": one(f"{names.mlp}.net.0.proj.weight"),
        "mlp_up_bias": one(f"{names.mlp}.net.0.proj.bias"),
        "mlp_down": one(f"{names.mlp}.net.2.weight"),
        "mlp_down_bias": one(f"{names.mlp}.net.2.bias"),
    }


def block_shapes(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of a block's flat buffer: img's, then txt's."""
    stream = _stream_shapes(config)
    return {f"{name}.{field}": stream[field] for name in ("img", "txt") for field in stream}


def block_views(config: TransformerConfig, buffer: Tensor) -> BlockWeights:
    """A block's weights as views into its flat buffer."""
    found = packing.views(block_shapes(config), buffer)
    img, txt = (
        StreamWeights(**{field: found[f"{name}.{field}"] for field in StreamWeights._fields})
        for name in ("img", "txt")
    )
    return BlockWeights(img, txt)


def fill_block(block: BlockWeights, index: int, read: ReadTensor) -> None:
    """Reads block `index` of the checkpoint into the views.

    Raises:
        ModelError: through `read`, if a tensor is missing.
        RuntimeError: a tensor has another shape than the config says.
    """
    path = f"transformer_blocks.{index}"
    for stream, names in ((block.img, IMG), (block.txt, TXT)):
        for field, source in _stream_sources(path, names, read).items():
            getattr(stream, field).copy_(source())


def read_edges(read: ReadTensor) -> EdgeWeights:
    """What lies before and after the blocks, as it is stored."""
    names = {
        "img_in": "img_in.weight",
        "img_in_bias": "img_in.bias",
        "txt_norm": "txt_norm.weight",
        "txt_in": "txt_in.weight",
        "txt_in_bias": "txt_in.bias",
        "proj_out": "proj_out.weight",
        "proj_out_bias": "proj_out.bias",
    }
    return EdgeWeights(**{field: read(name) for field, name in names.items()})


def ops_on(device: torch.device) -> Ops:
    """Fused kernels on a GPU, plain PyTorch elsewhere."""
    if device.type != "cuda":
        return PLAIN
    # Triton is there on GPU machines alone.
    from inference_server.model.triton_ops import FUSED

    return FUSED


def load_transformer(
    config: TransformerConfig,
    edges: EdgeWeights,
    fill: Callable[[int, Tensor], None],
    grid: tuple[int, int],
    device: torch.device,
    dtype: torch.dtype,
    streaming: Streaming | None = None,
) -> Transformer:
    """The transformer on its device, but for the blocks that `streaming` keeps in host memory.

    Args:
        config: its shape.
        edges: what lies before and after the blocks, anywhere.
        fill: reads block `index` into its flat buffer.
        grid: rows and columns of image tokens.
        device: where it computes.
        dtype: of its weights.
        streaming: None keeps everything on the device.
    """
    view = partial(block_views, config)
    blocks = place(config.blocks, packing.elements(block_shapes(config)), dtype, device, streaming)
    for index, buffer in enumerate(blocks):
        fill(index, buffer)
    there = EdgeWeights(*(weight.to(device=device, dtype=dtype) for weight in edges))
    return Transformer(
        config, there, arrange(blocks, view, streaming, device), grid, ops_on(device)
    )
