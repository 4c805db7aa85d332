"""Builds the transformer from its checkpoint: fuses q, k, v, packs blocks, folds modulation.

Maps the tensor names of the diffusers checkpoint to the fields of the blocks' weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from inference_server.model.folded_adapters import FoldedAdapters
from inference_server.model.kernels.choice import folding_on, operations_on
from inference_server.model.kernels.operations import Quantized
from inference_server.model.kernels.reference import quantize
from inference_server.model.modulation import ReadTensor
from inference_server.model.offload.layers import Streaming, load_layers
from inference_server.model.transformer import Transformer
from inference_server.model.transformer_weights import (
    BlockWeights,
    EdgeWeights,
    Matrix,
    StreamWeights,
    TransformerConfig,
)
from inference_server.model.weights import packing
from inference_server.model.weights.packing import Field, Fields
from inference_server.weight_kind import WeightKind


class StreamNames(NamedTuple):
    """Checkpoint names of one stream's weights, relative to `transformer_blocks.N.`."""

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


MATRICES = ("qkv", "out", "mlp_up", "mlp_down")
"""Fields of `StreamWeights` that are a `Matrix`."""


def block_fields(
    config: TransformerConfig, dtype: torch.dtype, kind: WeightKind, rank: int = 0
) -> Fields:
    """Every tensor of a block's flat buffer: img's, then txt's.

    Args:
        config: the transformer's shape.
        dtype: of everything but float8 matrices and their scales.
        kind: of the matrices.
        rank: of the adapters that the matrices have spare columns for; see `kernels.folding`.
    """
    d, m, h = config.width, config.mlp_width, config.head_dim
    shapes = {"qkv": (3 * d, d), "out": (d, d), "mlp_up": (m, d), "mlp_down": (d, m)}
    # Spare rows of mlp_up give its output the spare columns that mlp_down's adapters need.
    spare = {"qkv": (0, 3 * rank), "out": (0, rank), "mlp_up": (rank, rank), "mlp_down": (0, rank)}
    fields: dict[str, Field] = {}
    for stream in ("img", "txt"):
        for name, shape in shapes.items():
            stored = torch.float8_e4m3fn if kind is WeightKind.FP8 else dtype
            fields[f"{stream}.{name}"] = Field(shape, stored, spare[name])
            fields[f"{stream}.{name}.bias"] = Field(shape[:1], dtype, spare[name][:1])
            if kind is WeightKind.FP8:
                fields[f"{stream}.{name}.scale"] = Field((shape[0], 1), torch.float32)
        fields[f"{stream}.q_norm"] = fields[f"{stream}.k_norm"] = Field((h,), dtype)
    return fields


def block_views(fields: Fields, buffer: Tensor) -> BlockWeights:
    """A block's weights as views into its flat buffer."""
    found = packing.views(fields, buffer)

    def stream(path: str) -> StreamWeights:
        matrices = {
            name: Matrix(
                found[f"{path}.{name}"],
                found[f"{path}.{name}.bias"],
                found.get(f"{path}.{name}.scale"),
            )
            for name in MATRICES
        }
        return StreamWeights(
            **matrices, q_norm=found[f"{path}.q_norm"], k_norm=found[f"{path}.k_norm"]
        )

    return BlockWeights(stream("img"), stream("txt"))


ReadQuantized = Callable[[str], Quantized | None]
"""Name in the diffusers checkpoint -> a float8 matrix with its stored bits, if there are such."""


def matrix_names(config: TransformerConfig) -> Iterator[str]:
    """Yields the checkpoint's names of all matrices that a `WeightKind` decides about."""
    for index in range(config.blocks):
        for names in (IMG, TXT):
            for part in chain(*_modules(names).values()):
                yield f"transformer_blocks.{index}.{part}.weight"


def _modules(names: StreamNames) -> dict[str, tuple[str, ...]]:
    """Returns, by field of `StreamWeights`, the modules stacked in it."""
    return {
        "qkv": names.qkv,
        "out": (names.out,),
        "mlp_up": (f"{names.mlp}.net.0.proj",),
        "mlp_down": (f"{names.mlp}.net.2",),
    }


def _none(name: str) -> None:
    """Is the `ReadQuantized` of a checkpoint without float8 matrices."""


def fill_block(
    block: BlockWeights, index: int, read: ReadTensor, read_quantized: ReadQuantized = _none
) -> None:
    """Reads block `index` of the checkpoint into the views.

    Args:
        block: the views; float8 matrices keep the bits that `read_quantized` returns.
        index: the block's number.
        read: reads any tensor.
        read_quantized: reads a matrix that is stored as float8.

    Raises:
        ModelError: through the readers, if a tensor is missing.
    """
    path = f"transformer_blocks.{index}"
    for stream, names in ((block.img, IMG), (block.txt, TXT)):
        for field, parts in _modules(names).items():
            matrix = getattr(stream, field)
            matrix.bias.copy_(torch.cat([read(f"{path}.{part}.bias") for part in parts]))
            weights = [f"{path}.{part}.weight" for part in parts]
            if matrix.scale is None:
                matrix.weight.copy_(torch.cat([read(name) for name in weights]))
            else:
                _fill_quantized(matrix, [read_quantized(n) or quantize(read(n)) for n in weights])
        stream.q_norm.copy_(read(f"{path}.{names.q_norm}.weight"))
        stream.k_norm.copy_(read(f"{path}.{names.k_norm}.weight"))


def _fill_quantized(matrix: Matrix, parts: Sequence[Quantized]) -> None:
    # Not every version of torch copies or joins float8; all do bytes.
    values = [part.values.view(torch.uint8) for part in parts]
    matrix.weight.view(torch.uint8).copy_(torch.cat(values))
    assert matrix.scale is not None
    matrix.scale.copy_(torch.cat([part.scale for part in parts]))


EDGE_NAMES = {
    "img_in": "img_in.weight",
    "img_in_bias": "img_in.bias",
    "txt_norm": "txt_norm.weight",
    "txt_in": "txt_in.weight",
    "txt_in_bias": "txt_in.bias",
    "proj_out": "proj_out.weight",
    "proj_out_bias": "proj_out.bias",
}
"""Field of `EdgeWeights` -> tensor."""


def read_edges(read: ReadTensor) -> EdgeWeights:
    """Reads the layers before and after the blocks, in the data type they are stored in."""
    return EdgeWeights(**{field: read(name) for field, name in EDGE_NAMES.items()})


def load_transformer(
    config: TransformerConfig,
    edges: EdgeWeights,
    fill: Callable[[int, Tensor], None],
    *,
    grid: tuple[int, int],
    device: torch.device,
    dtype: torch.dtype,
    kind: WeightKind = WeightKind.BF16,
    streaming: Streaming | None = None,
    rank: int = 0,
) -> Transformer:
    """Builds the transformer.

    Args:
        config: its shape.
        edges: weights before and after the blocks, on the device and in `dtype`.
        fill: reads block `index` into its flat buffer.
        grid: rows and columns of image tokens.
        device: the device.
        dtype: of activations, and of weights that are not float8.
        kind: of the blocks' matrices.
        streaming: blocks to keep in host memory; None keeps all on the device.
        rank: of the adapters that can be folded into the products; 0 where blocks are streamed.
    """
    fields = block_fields(config, dtype, kind, rank)
    view, nbytes = partial(block_views, fields), packing.nbytes(fields)
    blocks = load_layers(config.blocks, nbytes, view, fill=fill, device=device, streaming=streaming)
    folded = FoldedAdapters(list(blocks), rank, folding_on(device)) if rank else None
    return Transformer(config, edges, blocks, grid=grid, ops=operations_on(device), folded=folded)
