"""The interface of one weight file, whatever its container format.

`tensor_file.TensorFile` reads safetensors, `gguf_file.GgufFile` GGUF. Another container plugs in
beside them: an `open_file.OpenFile` that `open_tensors` returns for its files. Names are
those in the file; `ComponentWeights` gives them the names of the diffusers checkpoint. A container
whose elements are blocks of a format of its own (GGUF) returns true shapes from `shape`, the
format's name from `stored_as`, and dequantises in `read`, tensor by tensor, so nothing else needs
to know the format. What `prepare` stamps and hashes is `path`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from torch import Tensor

from inference_server.model.weights.gguf_file import GgufFile, is_gguf
from inference_server.model.weights.tensor_file import TensorFile


class TensorReader(Protocol):
    """One weight file, read tensor by tensor.

    Every method raises ModelError if there is no such tensor, or the file is damaged or changed.
    """

    path: Path
    metadata: Mapping[str, str]
    """Free texts of the file's header; empty if the format has none."""

    @property
    def names(self) -> list[str]:
        """Names of all tensors."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns a tensor's true shape, in PyTorch's order, without reading it."""

    def stored_as(self, name: str) -> str:
        """Returns the name of a tensor's element type, as it is shown to the user: "BF16"."""

    def read(self, name: str) -> Tensor:
        """Reads one tensor to the CPU: as stored, or dequantised to float32."""

    def close(self) -> None:
        """Closes the file; tensors that were read stay valid."""


def open_tensors(folder: Path, path: Path) -> TensorReader:
    """Opens a weight file, by what it begins with.

    Args:
        folder: the model's; see `model_files.inside`.
        path: the file.

    Raises:
        ModelError: it cannot be read or is damaged.
    """
    return (GgufFile if is_gguf(folder, path) else TensorFile)(folder, path)
