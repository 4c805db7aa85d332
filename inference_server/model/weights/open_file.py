"""What the readers of weight files share: an open file and the places of its tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Generic, Protocol, Self, TypeVar

from inference_server.errors import ModelError
from inference_server.model.config_values import shown
from inference_server.model.weights.model_files import open_inside

MAX_TENSOR_BYTES: Final = 8 << 30
"""Largest tensor that is read; Qwen-Image's, the embedding in float32, has 2.2 GB."""


class Place(Protocol):
    """A tensor in a file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its true shape, in PyTorch's order."""

    @property
    def stored_as(self) -> str:
        """Name of its element type."""


PlaceT = TypeVar("PlaceT", bound=Place)


class OpenFile(ABC, Generic[PlaceT]):
    """A weight file by its tensors' names; a context manager that closes it.

    Args:
        folder: the model's; see `model_files.inside`.
        path: the file.

    Raises:
        ModelError: it cannot be read or is damaged.
    """

    metadata: Mapping[str, str]

    def __init__(self, folder: Path, path: Path) -> None:
        self.path = path
        self._file = open_inside(folder, path)
        try:
            self.metadata, self._places = self._read_header()
        except BaseException:
            self._file.close()
            raise

    @abstractmethod
    def _read_header(self) -> tuple[Mapping[str, str], Mapping[str, PlaceT]]:
        """Returns the texts of the header, and the tensors in the order of the file.

        Raises:
            ModelError: it cannot be read or is damaged.
        """

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
        return list(self._places)

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the true shape of one tensor without reading it."""
        return self._place(name).shape

    def stored_as(self, name: str) -> str:
        """Returns the name of one tensor's element type."""
        return self._place(name).stored_as

    def _place(self, name: str) -> PlaceT:
        place = self._places.get(name)
        if place is None:
            raise ModelError(f"{self.path} has no tensor {shown(name)}")
        return place
