"""A checkpoint whose weights are single files.

What is not given as a file comes from a diffusers folder, where there is one, and configs,
tokenizer and scheduler otherwise from the package.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inference_server.errors import ModelError
from inference_server.model import vae
from inference_server.model.config_values import ConfigValues
from inference_server.model.weights.checkpoint import (
    COMPONENTS,
    FolderCheckpoint,
    SmallFiles,
)
from inference_server.model.weights.component_weights import ComponentWeights
from inference_server.model.weights.foreign_layouts import OPTIONS, TITLES
from inference_server.model.weights.model_files import parse_json
from inference_server.model.weights.published import FOLDER, sized
from inference_server.model.weights.single_file import open_single


class SplitCheckpoint:
    """A `checkpoint.Checkpoint` made of single files.

    Args:
        where: the model's file or folder, for messages.
        name: see `Checkpoint`.
        files: component -> its file.
        components: a diffusers folder for the rest; None: there is none.

    Raises:
        ModelError: a file cannot be used, or a component's weights are missing.
    """

    def __init__(
        self, where: Path, name: str, files: Mapping[str, Path], components: Path | None
    ) -> None:
        self.where, self.name = where, name
        self.files = files
        # What a file is comes before what it lacks: a LoRA is no transformer without the rest.
        self._weights: dict[str, ComponentWeights] = {}
        if (transformer := files.get("transformer")) is not None:
            self._weights["transformer"] = open_single(transformer, "transformer")
        missing = [component for component in OPTIONS if component not in files]
        if missing and components is None:
            lacking = " and ".join(TITLES[component] for component in missing)
            options = " and ".join(OPTIONS[component] for component in missing)
            raise ModelError(
                f"{where} comes without {lacking}: give {options}, or a folder in diffusers layout "
                "that has the rest with --components FOLDER"
            )
        self._rest: list[SmallFiles] = [FolderCheckpoint(FOLDER, ())]
        self._folder: FolderCheckpoint | None = None
        if components is not None:
            self._folder = FolderCheckpoint(components, missing)
            self._rest.insert(0, self._folder)
        self._weights |= {
            component: open_single(path, component, self._res_blocks(component))
            for component, path in files.items()
            if component != "transformer"
        }

    def small_file(self, path: str) -> bytes | None:
        """See `SmallFiles`."""
        component, _, name = path.partition("/")
        if component in self._weights and name == COMPONENTS[component]:
            return (json.dumps(self.config(component), indent=2) + "\n").encode()
        if component == "vae" and component in self._weights:
            return None  # preview.json is that of another file
        holder = next(model for model in self._rest if self._has(model, component))
        return holder.small_file(path)

    def config(self, component: str) -> dict[str, Any]:
        """See `Checkpoint`."""
        config = self._config(component)
        weights = self._weights.get(component)
        return config if weights is None else sized(component, config, weights)

    def weights(self, component: str) -> ComponentWeights:
        """See `Checkpoint`."""
        if (weights := self._weights.get(component)) is not None:
            return weights
        assert self._folder is not None
        return self._folder.weights(component)

    def _config(self, component: str) -> dict[str, Any]:
        """Returns a component's config without regard to the sizes in its file."""
        path = f"{component}/{COMPONENTS[component]}"
        model = next(model for model in self._rest if self._has(model, component))
        return parse_json(model.small_file(path) or b"", str(model.where / path))

    def _res_blocks(self, component: str) -> int:
        if component != "vae":
            return 0
        values = ConfigValues(vae.CONFIG_FILE, self._config(component))
        return values.integer("num_res_blocks", least=0, most=16)

    @staticmethod
    def _has(model: SmallFiles, component: str) -> bool:
        """Returns True if a folder has a component, all of whose small files come from it then."""
        return model.small_file(f"{component}/{COMPONENTS[component]}") is not None
