"""Finds a model's folder: by its path, or by its id on the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from inference_server.errors import ModelError
from inference_server.model.weights.model_files import exists

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
FILE_SUFFIXES = (".safetensors", ".sft", ".gguf")
"""Of paths that are meant to be files, and never ids."""
HUB_FILES = ["*.json", "*.txt", "*.safetensors"]


def locate(model: Path) -> Path:
    """Returns the place of a model that is given by its path or its Hugging Face hub id.

    Files that the hub's cache lacks are downloaded, with the hub's own progress bars.

    Raises:
        ModelError: there is no such folder, and the hub does not provide one.
    """
    if exists(model) or not HUB_ID.fullmatch(str(model)) or model.suffix in FILE_SUFFIXES:
        return model
    try:
        return Path(snapshot_download(str(model), allow_patterns=HUB_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split("\n")[0].split()) or type(error).__name__
        raise ModelError(
            f"there is no folder {model}, and the Hugging Face hub does not give {model} either "
            f"({reason}): check name and network, or give a folder with --model"
        ) from None
