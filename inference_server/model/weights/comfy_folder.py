"""Finds the files of Qwen-Image in ComfyUI's `models` folder, by their names.

A component is taken only if one file fits: of several, the operator says which.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from inference_server.errors import ModelError
from inference_server.model.weights import gguf_file
from inference_server.model.weights.foreign_layouts import OPTIONS, TITLES, is_foreign_name

FOLDERS: Final = {
    "transformer": ("diffusion_models", "unet"),
    "text_encoder": ("text_encoders", "clip"),
    "vae": ("vae",),
}
"""Component -> ComfyUI's folders for it, the present name first."""

SUFFIXES: Final = (".safetensors", ".sft", gguf_file.SUFFIX)

_NAMES: Final = {
    "transformer": re.compile(r"qwen[-_. ]?image"),
    "text_encoder": re.compile(r"qwen[-_. ]?2[-_.]?5[-_. ]?vl"),
    "vae": re.compile(r"qwen[-_. ]?image.*vae"),
}
_OTHERS: Final = re.compile(
    r"controlnet|lora(?![a-z])|mmproj|model[-_]?patch|(?<![\d.])(2|3|32|72)b(?![a-z0-9])"
)
"""Other kinds of files, and other sizes of the text encoder."""

MAX_FILES: Final = 20_000
"""Most files of one folder that are looked at."""

MAX_DEPTH: Final = 6
"""Most folders within each other that are looked at; links are followed, also in a circle."""


def models_folder(path: Path) -> Path | None:
    """Returns ComfyUI's `models` folder at a path: itself, the one in it, or the one around it."""
    outer = path.absolute().parent if path.name in FOLDERS["transformer"] else path
    for folder in (path, path / "models", outer):
        if any((folder / name).is_dir() for name in FOLDERS["transformer"]):
            return folder
    return None


def folder_around(file: Path) -> Path | None:
    """Returns the `models` folder whose folder for transformers holds a file, at any depth."""
    for parent in file.absolute().parents:
        if parent.name in FOLDERS["transformer"]:
            return parent.parent
    return None


def find(models: Path, components: Iterable[str]) -> dict[str, Path]:
    """Returns the file of each component that has one.

    Args:
        models: ComfyUI's folder.
        components: those to find.

    Raises:
        ModelError: several files fit a component; the message lists them.
    """
    found = {}
    for component in components:
        candidates = _candidates(models, component)
        if len(candidates) > 1:
            shown = ", ".join(str(path.relative_to(models)) for path in candidates[:12])
            more = f" and {len(candidates) - 12} more" if len(candidates) > 12 else ""
            raise ModelError(
                f"{models} holds {len(candidates)} files that may be the "
                f"{TITLES[component]}: {shown}{more}. Say which with {OPTIONS[component]}"
            )
        if candidates:
            found[component] = candidates[0]
    return found


def _candidates(models: Path, component: str) -> list[Path]:
    paths: dict[Path, Path] = {}
    for name in FOLDERS[component]:
        seen = 0
        for folder, inner, files in os.walk(models / name, followlinks=True):
            if len(Path(folder).relative_to(models).parts) >= MAX_DEPTH:
                inner.clear()
            inner.sort(key=lambda name: Path(folder, name).is_symlink())
            seen += len(files) + len(inner)
            if seen > MAX_FILES:
                raise ModelError(
                    f"{models / name} holds more than {MAX_FILES:,} files: say which is the "
                    f"{TITLES[component]} with {OPTIONS[component]}"
                )
            for path in (Path(folder, file) for file in files if _fits(file, component)):
                if path.is_file():  # not a link to nothing
                    paths.setdefault(path.resolve(), path)  # once, however many links lead there
    return sorted(paths.values())


def _fits(file: str, component: str) -> bool:
    name = file.lower()
    return (
        name.endswith(SUFFIXES)
        and not name.startswith(".")
        and _NAMES[component].search(name) is not None
        and _OTHERS.search(name) is None
        and not is_foreign_name(Path(file))
    )
