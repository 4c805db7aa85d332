"""The tensors of one component of a model, by the names of the diffusers checkpoint.

They lie in one file or several, of any container format; see `tensor_reader`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from inference_server.errors import ModelError
from inference_server.model.kernels.operations import Quantized
from inference_server.model.weights.scaling import UNSCALED, Scaling
from inference_server.model.weights.tensor_reader import TensorReader


class ComponentWeights:
    """Reads a component tensor by tensor.

    Args:
        where: the component's folder or file, for messages.
        readers: its files.
        places: name of each tensor -> the file that holds it, and its name there.
        scalings: of the tensors whose stored values are not the weights, by their names.
    """

    def __init__(
        self,
        where: Path,
        readers: Iterable[TensorReader],
        places: Mapping[str, tuple[TensorReader, str]],
        scalings: Mapping[str, Scaling] | None = None,
    ) -> None:
        self.where = where
        self.paths = tuple(reader.path for reader in readers)
        self._places = places
        self._scalings = scalings or {}

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of one tensor without reading it."""
        reader, stored = self._place(name)
        return reader.shape(stored)

    def read(self, name: str) -> Tensor:
        """Reads one tensor to the CPU: float32 if it is scaled, otherwise as its file gives it.

        Raises:
            ModelError: there is no tensor of that name, or it cannot be read.
        """
        reader, stored = self._place(name)
        tensor = reader.read(stored)
        return self._scalings[name].widen(tensor) if name in self._scalings else tensor

    def read_quantized(self, name: str) -> Quantized | None:
        """Reads one matrix with the bits it is stored in; None if they are not the engine's float8.

        Raises:
            ModelError: there is no tensor of that name, or it cannot be read.
        """
        reader, stored = self._place(name)
        if not self.is_float8(name):
            return None
        return self._scalings.get(name, UNSCALED).quantized(reader.read(stored))

    def is_float8(self, name: str) -> bool:
        """Returns True if a tensor is stored as a matrix that the engine can multiply as float8."""
        reader, stored = self._place(name)
        if self._scalings.get(name, UNSCALED).group:
            return False
        return reader.stored_as(stored) == "F8_E4M3" and len(reader.shape(stored)) == 2

    def stored_as(self, name: str) -> str:
        """Returns how a tensor is stored, in a few words for the user: "F8_E4M3 with scales"."""
        reader, stored = self._place(name)
        kind, scaling = reader.stored_as(stored), self._scalings.get(name)
        if scaling is None:
            return kind
        return f"{kind}, rotated (ConvRot)" if scaling.group else f"{kind} with scales"

    def asks_for_full_precision(self, name: str) -> bool:
        """Returns True if the file asks not to quantise the input of a matrix."""
        return name in self._scalings and self._scalings[name].full_precision

    def parameter_count(self) -> int:
        """Returns the number of elements in all tensors."""
        return sum(torch.Size(self.shape(name)).numel() for name in self._places)

    def expect(self, shapes: Mapping[str, tuple[int, ...]], config: str) -> None:
        """Compares the tensors' shapes with those that follow from a config.

        Args:
            shapes: the tensors that must exist.
            config: file name of the config, for the message.

        Raises:
            ModelError: a tensor is missing or has another shape.
        """
        for name, shape in shapes.items():
            if (found := self.shape(name)) != shape:
                raise ModelError(
                    f"{self.where}: {name} is {list(found)}, {list(shape)} by {config}: they are "
                    "of different models, or one is damaged"
                )

    def _place(self, name: str) -> tuple[TensorReader, str]:
        place = self._places.get(name)
        if place is None:
            raise ModelError(
                f"{self.where} has no tensor {name!r}: this is not a Qwen-Image checkpoint, "
                "or it is incomplete."
            )
        return place
