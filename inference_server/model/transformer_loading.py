"""Builds the transformer from its checkpoint: fuses q, k, v, packs blocks, folds modulation.

Owns the names tensors have in the diffusers checkpoint; knows nothing of the forward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from inference_server.model.modulation import ReadTensor
from inference_server.model.transformer import (
    BlockWeights,
    EdgeWeights,
    StreamWeights,
    Transformer,
    TransformerConfig,
)

ALIGNMENT = 128
"""Elements between tensors of a block's buffer: 256 bytes in bf16, what vector loads like."""


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


def block_elements(config: TransformerConfig) -> int:
    """Elements of one block's flat buffer."""
    per_stream = sum(
        -(-torch.Size(shape).numel() // ALIGNMENT) * ALIGNMENT
        for shape in _stream_shapes(config).values()
    )
    return 2 * per_stream


def block_views(config: TransformerConfig, buffer: Tensor) -> BlockWeights:
    """A block's weights as views into a flat buffer of `block_elements` elements."""
    offset = 0
    streams = []
    for _ in range(2):
        fields = {}
        for field, shape in _stream_shapes(config).items():
            count = torch.Size(shape).numel()
            fields[field] = buffer[offset : offset + count].view(shape)
            offset += -(-count // ALIGNMENT) * ALIGNMENT
        streams.append(StreamWeights(**fields))
    return BlockWeights(*streams)


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


def load_edges(read: ReadTensor, device: torch.device, dtype: torch.dtype) -> EdgeWeights:
    """What lies before and after the blocks."""
    names = {
        "img_in": "img_in.weight",
        "img_in_bias": "img_in.bias",
        "txt_norm": "txt_norm.weight",
        "txt_in": "txt_in.weight",
        "txt_in_bias": "txt_in.bias",
        "proj_out": "proj_out.weight",
        "proj_out_bias": "proj_out.bias",
    }
    return EdgeWeights(
        **{field: read(name).to(device=device, dtype=dtype) for field, name in names.items()}
    )


def load_transformer(
    config: TransformerConfig,
    read: ReadTensor,
    grid: tuple[int, int],
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[Transformer, int]:
    """The transformer on its device, and the bytes its weights take there."""
    edges = load_edges(read, device, dtype)
    elements = block_elements(config)
    arena = torch.zeros(config.blocks, elements, device=device, dtype=dtype)
    blocks = [block_views(config, buffer) for buffer in arena]
    for index, block in enumerate(blocks):
        fill_block(block, index, read)
    nbytes = arena.nbytes + sum(t.nbytes for t in edges)
    return Transformer(config, edges, blocks, grid), nbytes
