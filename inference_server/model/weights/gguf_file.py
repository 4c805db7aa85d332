"""Reads one GGUF file of a model tensor by tensor, dequantised to float32.

The content is read, not mapped, for the reason that `tensor_file` gives, and in pieces: besides the
tensor itself, one piece of a million elements is in memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from inference_server.errors import ModelError
from inference_server.model.config_values import shown
from inference_server.model.weights.gguf_header import MAGIC, Entry, parse_header
from inference_server.model.weights.gguf_types import BlockType, PlainType
from inference_server.model.weights.gguf_values import DamagedError, HeaderError
from inference_server.model.weights.model_files import open_inside, read_range
from inference_server.model.weights.open_file import MAX_TENSOR_BYTES, OpenFile

SUFFIX: Final = ".gguf"
PIECE_ELEMENTS: Final = 1 << 20
"""Elements that are dequantised at once: they and what is computed from them fit the cache."""


def is_gguf(folder: Path, path: Path) -> bool:
    """Returns True if a file of a model's folder is a GGUF file, by its beginning or its suffix.

    In a Hugging Face hub's cache, files have no suffix; and one that is damaged may have another
    beginning.

    Raises:
        ModelError: it cannot be read.
    """
    with open_inside(folder, path) as file:
        try:
            return path.suffix == SUFFIX or file.read(len(MAGIC)) == MAGIC
        except OSError as error:
            raise ModelError(f"cannot read {path}: {error.strerror or error}") from None


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keeps PyTorch's operations on the calling thread.

    A piece takes a dozen short operations, and OpenMP's threads wait for each other by spinning:
    where other programs use the processors too, two of them are ten times slower than one.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class GgufFile(OpenFile[Entry]):
    """A file's tensors by name; `stored_as` returns GGUF's names of types.

    Args:
        folder: the model's; see `model_files.inside`.
        path: the file.

    Attributes:
        metadata: the short texts of the header, such as `general.architecture`.

    Raises:
        ModelError: it cannot be read, is damaged, or holds what this server does not read.
    """

    def _read_header(self) -> tuple[Mapping[str, str], Mapping[str, Entry]]:
        try:
            header = parse_header(self._file, os.fstat(self._file.fileno()).st_size)
        except DamagedError as error:
            raise ModelError(f"{self.path} is damaged ({error}). Download it again.") from None
        except HeaderError as error:
            raise ModelError(f"cannot use {self.path}: {error}.") from None
        except OSError as error:
            raise ModelError(f"cannot read {self.path}: {error.strerror or error}") from None
        return header.texts, header.tensors

    def read(self, name: str) -> Tensor:
        """Reads one tensor to the CPU: as stored, or dequantised to float32.

        Raises:
            ModelError: there is no tensor of that name, it cannot be read, or a scale in it is
                infinite or not a number.
        """
        entry = self._place(name)
        elements = torch.Size(entry.shape).numel()
        kind = entry.kind
        dtype = kind.dtype if isinstance(kind, PlainType) else torch.float32
        if (nbytes := elements * dtype.itemsize) > MAX_TENSOR_BYTES:
            raise ModelError(
                f"{self.path}: {shown(name)} has {nbytes:,} bytes as {dtype}, at most "
                f"{MAX_TENSOR_BYTES:,} are read"
            )
        # NumPy asks the kernel for huge pages: filling new memory takes half the time.
        memory = np.empty(nbytes, np.uint8)
        tensor = torch.from_numpy(memory).view(dtype)
        if isinstance(kind, PlainType):
            read_range(self._file, self.path, memory.data, entry.begin, name)
        else:
            with _one_thread():
                self._dequantise(kind, entry, tensor, name)
        return tensor.view(entry.shape)

    def _dequantise(self, kind: BlockType, entry: Entry, tensor: Tensor, name: str) -> None:
        out, begin = tensor.view(-1, kind.elements), entry.begin
        held = min(len(out), PIECE_ELEMENTS // kind.elements)
        stored = torch.empty(held, kind.nbytes, dtype=torch.uint8)
        for piece in out.split(len(stored)):
            blocks = stored[: len(piece)]
            read_range(self._file, self.path, blocks.numpy().data.cast("B"), begin, name)
            begin += blocks.nbytes
            scales = [
                blocks[:, at : at + 2].contiguous().view(torch.float16).float()
                for at in kind.halves
            ]
            if not all(scale.isfinite().all() for scale in scales):
                raise ModelError(
                    f"{self.path} is damaged ({shown(name)} holds a scale that is not a finite "
                    "number). Download it again."
                )
            kind.fill(blocks, piece, *scales)
