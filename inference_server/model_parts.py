"""Options for the parts of a model that `--model` lacks; imports no torch, for the command line."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MODEL_HELP: Final = (
    "a checkpoint in diffusers layout, its id on the Hugging Face hub, the transformer as a single"
    " .safetensors or .gguf file, or ComfyUI's models folder; see docs/checkpoints.md"
)


@dataclass(frozen=True, slots=True)
class ModelParts:
    """Where the parts of a model come from that `--model` lacks."""

    text_encoder: Path | None = None
    """A file of the text encoder; None: found beside the model."""
    vae: Path | None = None
    """A file of the VAE; None: found beside the model."""
    components: Path | None = None
    """A folder in diffusers layout for what is not a file; None: there is none."""

    @property
    def given(self) -> dict[str, Path]:
        """Component -> the file that was given."""
        files = {"text_encoder": self.text_encoder, "vae": self.vae}
        return {component: path for component, path in files.items() if path is not None}


def add_part_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options, named like the fields of `ModelParts`."""
    add = parser.add_argument
    add(
        "--text-encoder",
        type=Path,
        metavar="FILE",
        help="text encoder (Qwen2.5-VL 7B) as a single file; default: what the model has",
    )
    add(
        "--vae",
        type=Path,
        metavar="FILE",
        help="VAE as a single file, in Wan's or diffusers' names; default: what the model has",
    )
    add(
        "--components",
        type=Path,
        metavar="FOLDER",
        help="folder in diffusers layout for what no file is given for, besides a --model FILE",
    )


def take_parts(values: argparse.Namespace) -> ModelParts:
    """Removes the options from the parsed ones and returns them."""
    names = ModelParts.__dataclass_fields__
    return ModelParts(**{name: vars(values).pop(name) for name in names})
