"""Reads one safetensors file of a model tensor by tensor.

The safetensors package checks the container (header, offsets, the file's size). The content is
read, not mapped: truncating a mapped file would end the process with SIGBUS, and a running server
no longer depends on the file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from inference_server.errors import ModelError, one_line
from inference_server.model.config_values import shown
from inference_server.model.weights.model_files import read_range
from inference_server.model.weights.open_file import MAX_TENSOR_BYTES, OpenFile
from wuliart_lora.reader import HEAD_BYTES, other_format

DTYPES: Final[Mapping[str, torch.dtype]] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Element types that are read."""

LENGTH_BYTES: Final = 8
MAX_HEADER_BYTES: Final = 16 << 20
"""Largest header that is read; Qwen-Image's largest has 0.3 MB."""
MAX_REASON: Final = 300
"""Characters that are shown of the safetensors package's own error."""


class _Entry(NamedTuple):
    stored_as: str
    """Key of DTYPES."""
    shape: tuple[int, ...]
    begin: int
    """Bytes from the beginning of the file."""

    @property
    def dtype(self) -> torch.dtype:
        """The element type."""
        return DTYPES[self.stored_as]


class TensorFile(OpenFile[_Entry]):
    """A file's tensors by name; `stored_as` returns keys of DTYPES.

    Args:
        folder: the model's; see `model_files.inside`.
        path: the file.

    Attributes:
        metadata: the header's metadata.

    Raises:
        ModelError: it cannot be read or is damaged.
    """

    def read(self, name: str) -> Tensor:
        """Reads one tensor to the CPU, in the dtype it is stored in.

        Raises:
            ModelError: there is no tensor of that name, or it cannot be read.
        """
        entry = self._place(name)
        nbytes = torch.Size(entry.shape).numel() * entry.dtype.itemsize
        if nbytes > MAX_TENSOR_BYTES:
            raise ModelError(
                f"{self.path}: {shown(name)} has {nbytes:,} bytes, at most {MAX_TENSOR_BYTES:,} "
                "are read"
            )
        buffer = torch.empty(nbytes, dtype=torch.uint8)
        read_range(self._file, self.path, buffer.numpy().data, entry.begin, name)
        return buffer.view(entry.dtype).view(entry.shape)

    def _read_header(self) -> tuple[Mapping[str, str], Mapping[str, _Entry]]:
        descriptor = self._file.fileno()
        head = os.pread(descriptor, HEAD_BYTES, 0)
        if (what := other_format(head)) is not None:
            raise ModelError(
                f"{self.path} is {what}: give the weights themselves, as .safetensors or .gguf"
            )
        length = int.from_bytes(head[:LENGTH_BYTES], "little")
        if length > MAX_HEADER_BYTES:
            raise self._damaged(f"it announces a header of {length:,} bytes")
        try:
            # By descriptor: the path may lead to another file by now.
            # For NumPy it is mapped read-only; for PyTorch, memory for all of it would be reserved.
            with safe_open(f"/proc/self/fd/{descriptor}", framework="np") as file:
                metadata = dict(file.metadata() or {})
                entries, begin = {}, LENGTH_BYTES + length
                for name in file.offset_keys():
                    part = file.get_slice(name)
                    entry = _Entry(self._known(part.get_dtype()), tuple(part.get_shape()), begin)
                    entries[name] = entry
                    # Tensors lie one after another, without gaps.
                    begin += torch.Size(entry.shape).numel() * entry.dtype.itemsize
        except (SafetensorError, OSError) as error:
            raise self._damaged(str(error)) from None
        return metadata, entries

    def _known(self, name: str) -> str:
        if name not in DTYPES:
            raise ModelError(
                f"{self.path} holds element type {name}; this server reads {', '.join(DTYPES)}"
            )
        return name

    def _damaged(self, why: str) -> ModelError:
        # The safetensors package quotes names of tensors as they stand in the file.
        text = one_line(why)[:MAX_REASON]
        return ModelError(f"{self.path} is damaged ({text}). Download it again.")
