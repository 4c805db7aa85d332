"""Makes the weight files of a prepared folder, one at a time, from a stock checkpoint."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from inference_server.model.text_encoder import TextConfig
from inference_server.model.transformer_weights import TransformerConfig
from inference_server.model.vae import decoder_tensors
from inference_server.model.weights import packing
from inference_server.model.weights import prepared_files as files
from inference_server.model.weights.packing import Fields
from inference_server.model.weights.source import StockSource
from inference_server.model.weights.text_encoder import layer_fields
from inference_server.model.weights.transformer import block_fields
from inference_server.weight_kind import WeightKind


class Part(NamedTuple):
    """One weight file that is still to be made."""

    name: str
    """Its path in the folder."""
    make: Callable[[], dict[str, Tensor]]
    """Reads and computes its tensors."""
    metadata: dict[str, str]
    """Header fields other than its name and the folder's stamp."""


def parts(source: StockSource, levels: Sequence[float], kind: WeightKind) -> Iterator[Part]:
    """Yields every weight file of a prepared folder, in the order in which they are written.

    Args:
        source: the checkpoint, its Turbo LoRA fused.
        levels: the distinct noise levels, for the tables.
        kind: how the blocks' matrices are stored.
    """
    config = TransformerConfig.from_json(source.config("transformer"))
    text = TextConfig.from_json(source.config("text_encoder"))

    def tables() -> dict[str, Tensor]:
        made = source.tables(config, levels)
        modulation = made.modulation
        return {
            "blocks": modulation.blocks,
            "final": modulation.final,
            "conditioning": made.conditioning,
        }

    def flat(
        fill: Callable[[Fields, int, Tensor], None], fields: Fields, index: int
    ) -> dict[str, Tensor]:
        buffer = torch.zeros(packing.nbytes(fields), dtype=torch.uint8)
        fill(fields, index, buffer)
        return {files.FLAT: buffer}

    blocks = partial(flat, source.fill_block, block_fields(config, files.DTYPE, kind))
    text_layers = partial(flat, source.fill_text_layer, layer_fields(text, files.DTYPE))

    yield Part(files.TABLES, tables, {files.LEVELS: json.dumps(list(levels))})
    yield Part(files.EDGES, lambda: _in_dtype(source.edges()._asdict()), {})
    for index in range(config.blocks):
        yield Part(files.block_file(index), partial(blocks, index), {})
    yield Part(files.TEXT_EDGES, lambda: _in_dtype(source.text_edges()._asdict()), {})
    for index in range(text.layers):
        yield Part(files.text_layer_file(index), partial(text_layers, index), {})
    yield Part(files.VAE, lambda: _in_dtype(decoder_tensors(source.vae())), {})


def write_part(out: Path, part: Part, stamp: str) -> None:
    """Makes a part and writes it to its place in `out`.

    Raises:
        ModelError: the checkpoint cannot be read.
        OSError: the file cannot be written.
    """
    tensors, path = part.make(), out / part.name
    metadata = {files.STAMP: stamp, files.PART: part.name, **part.metadata}
    with files.whole(path) as temporary:
        try:
            save_file(tensors, temporary, metadata=metadata)
        except SafetensorError as error:
            # Only the error's text holds the operating system's error number.
            code = re.search(r"\(os error (\d+)\)", str(error))
            number = int(code[1]) if code else errno.EIO
            raise OSError(number, os.strerror(number), str(path)) from None


def _in_dtype(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to(files.DTYPE).contiguous() for name, tensor in tensors.items()}
