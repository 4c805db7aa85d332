"""Opens a component that lies in a single file, as ComfyUI's users keep them.

Names lose their prefix, those of Wan's VAE and of llama.cpp's text encoders are translated, and the
marks of quantised tensors are resolved, so that the rest of the server reads the file like a
component of a diffusers folder.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from inference_server.errors import ModelError
from inference_server.model.weights import llama_names, wan_vae_names
from inference_server.model.weights.component_weights import ComponentWeights
from inference_server.model.weights.foreign_layouts import refuse_by_name, refuse_by_tensors
from inference_server.model.weights.scale_marks import is_auxiliary, scalings
from inference_server.model.weights.tensor_reader import TensorReader, open_tensors

PREFIXES: Final = {
    "transformer": ("model.diffusion_model.", "diffusion_model."),
    "text_encoder": ("text_encoders.qwen25_7b.transformer.",),
    "vae": ("vae.", "first_stage_model."),
}
"""Component -> prefixes of its names, besides none, in the order of preference. A checkpoint that
ComfyUI saves holds all three components, each behind its prefix."""

_FIRST: Final = {"transformer": "transformer_blocks.", "text_encoder": "", "vae": "decoder."}
"""Component -> what follows its prefix, in one name at least."""


def open_single(path: Path, component: str, res_blocks: int = 2) -> ComponentWeights:
    """Opens a file that holds one component.

    Args:
        path: the file, or a link to it.
        component: transformer, text_encoder or vae.
        res_blocks: `num_res_blocks` of the VAE's config, by which Wan numbers its layers.

    Raises:
        ModelError: it cannot be read, is damaged, or holds something else.
    """
    if component == "transformer":
        refuse_by_name(path)
    reader = _open(path)
    try:
        names = _known_names(reader.names)
        prefix = _prefix(names, component)
        own = {k.removeprefix(prefix): n for k, n in names.items() if k.startswith(prefix)}
        refuse_by_tensors(path, own, component)
        scaled = scalings(reader, prefix)
        places = {
            known: (reader, name) for known, name in own.items() if known and not is_auxiliary(name)
        }
        if component == "vae" and wan_vae_names.SIGN in places:
            places = {
                translated: place
                for name, place in places.items()
                if (translated := wan_vae_names.diffusers_name(name, res_blocks)) is not None
            }
        return ComponentWeights(
            path,
            (reader,),
            places,
            {known: scaled[name] for known, (_, name) in places.items() if name in scaled},
        )
    except BaseException:
        reader.close()
        raise


def components_beside(path: Path) -> list[str]:
    """Returns the components that a file of the transformer holds besides it.

    Raises:
        ModelError: it cannot be read, or is damaged.
    """
    reader = _open(path)
    try:
        return [c for c in PREFIXES if c != "transformer" and _prefix(reader.names, c)]
    finally:
        reader.close()


def _open(path: Path) -> TensorReader:
    """Opens a file that the operator named, so that a link may lead anywhere."""
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelError(f"cannot read {path}: {reason}") from None
    if real.is_dir():
        raise ModelError(
            f"{path} is a folder: give the file in it, or a folder in diffusers layout with "
            "--components"
        )
    return open_tensors(real.parent, real)


def _known_names(names: list[str]) -> dict[str, str]:
    """Returns the names in a file by what they are called here; llama.cpp's are translated."""
    if llama_names.SIGN not in names:
        return {name: name for name in names}
    return {
        known: name for name in names if (known := llama_names.transformers_name(name)) is not None
    }


def _prefix(names: Iterable[str], component: str) -> str:
    """Returns the prefix of a component's names in a file; "" for none."""
    for prefix in PREFIXES[component]:
        if any(name.startswith(f"{prefix}{_FIRST[component]}") for name in names):
            return prefix
    return ""
