"""The tensors of one component of a model, by the names of the diffusers checkpoint.

They lie in one file or several, of any container format; see `tensor_reader`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from inference_server.errors import ModelError
from inference_server.model.weights.tensor_reader import TensorReader


class ComponentWeights:
    """Reads a component tensor by tensor.

    Args:
        where: the component's folder or file, for messages.
        readers: its files.
        places: name of each tensor -> the file that holds it, and its name there.
    """

    def __init__(
        self,
        where: Path,
        readers: Iterable[TensorReader],
        places: Mapping[str, tuple[TensorReader, str]],
    ) -> None:
        self.where = where
        self.paths = tuple(reader.path for reader in readers)
        self._places = places

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of one tensor without reading it."""
        reader, stored = self._place(name)
        return reader.shape(stored)

    def read(self, name: str) -> Tensor:
        """Reads one tensor to the CPU; see `TensorReader.read`.

        Raises:
            ModelError: there is no tensor of that name, or it cannot be read.
        """
        reader, stored = self._place(name)
        return reader.read(stored)

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
