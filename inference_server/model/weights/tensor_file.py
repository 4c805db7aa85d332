"""Reads one safetensors file of a model tensor by tensor.

The safetensors package checks the container (header, offsets, the file's size). The content is
read, not mapped: truncating a mapped file would end the process with SIGBUS, and a running server
no longer depends on the file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from inference_server.errors import ModelError, one_line
from inference_server.model.config_values import shown
from inference_server.model.weights.model_files import open_inside, read_range
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
MAX_TENSOR_BYTES: Final = 8 << 30
"""Largest tensor that is read; Qwen-Image's, the embedding in float32, has 2.2 GB."""
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


class TensorFile:
    """A file's tensors by name; a context manager that closes the file.

    Args:
        folder: the model's; see `model_files.inside`.
        path: the file.

    Attributes:
        metadata: the header's metadata.

    Raises:
        ModelError: it cannot be read or is damaged.
    """

    metadata: Mapping[str, str]

    def __init__(self, folder: Path, path: Path) -> None:
        self.path = path
        self._file = open_inside(folder, path)
        try:
            self._entries = self._read_header()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; tensors that were read stay valid."""
        self._file.close()

    @property
    def names(self) -> list[str]:
        """Names of all tensors, in the order of the file."""
        return list(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of one tensor without reading it."""
        return self._entry(name).shape

    def stored_as(self, name: str) -> str:
        """Returns the element type of one tensor, a key of DTYPES."""
        return self._entry(name).stored_as

    def read(self, name: str) -> Tensor:
        """Reads one tensor to the CPU, in the dtype it is stored in.

        Raises:
            ModelError: there is no tensor of that name, or it cannot be read.
        """
        entry = self._entry(name)
        nbytes = torch.Size(entry.shape).numel() * entry.dtype.itemsize
        if nbytes > MAX_TENSOR_BYTES:
            raise ModelError(
                f"{self.path}: {shown(name)} has {nbytes:,} bytes, at most {MAX_TENSOR_BYTES:,} "
                "are read"
            )
        buffer = torch.empty(nbytes, dtype=torch.uint8)
        read_range(self._file, self.path, buffer.numpy().data, entry.begin, name)
        return buffer.view(entry.dtype).view(entry.shape)

    def _entry(self, name: str) -> _Entry:
        entry = self._entries.get(name)
        if entry is None:
            raise ModelError(f"{self.path} has no tensor {shown(name)}")
        return entry

    def _read_header(self) -> dict[str, _Entry]:
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
                self.metadata = dict(file.metadata() or {})
                entries, begin = {}, LENGTH_BYTES + length
                for name in file.offset_keys():
                    part = file.get_slice(name)
                    entry = _Entry(self._known(part.get_dtype()), tuple(part.get_shape()), begin)
                    entries[name] = entry
                    # Tensors lie one after another, without gaps.
                    begin += torch.Size(entry.shape).numel() * entry.dtype.itemsize
        except (SafetensorError, OSError) as error:
            raise self._damaged(str(error)) from None
        return entries

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
