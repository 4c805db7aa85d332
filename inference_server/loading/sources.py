"""Opens the source of a model's weights, and compares it with the operator's options."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

import torch

from inference_server.errors import ModelError
from inference_server.model.weights.checkpoint import Checkpoint, FolderCheckpoint
from inference_server.model.weights.comfy_folder import find, folder_around, models_folder
from inference_server.model.weights.foreign_layouts import OPTIONS, TITLES
from inference_server.model.weights.hub import locate
from inference_server.model.weights.model_files import exists
from inference_server.model.weights.prepared import PreparedSource
from inference_server.model.weights.prepared_files import UNFINISHED, is_prepared
from inference_server.model.weights.single_file import components_beside
from inference_server.model.weights.source import Source, StockSource
from inference_server.model.weights.split_checkpoint import SplitCheckpoint
from inference_server.model_parts import ModelParts
from inference_server.weight_kind import WeightKind

log = logging.getLogger(__name__)

NO_PARTS: Final = ModelParts()

FP8_CAPABILITY: Final = (8, 9)
"""Smallest CUDA compute capability whose tensor cores multiply float8_e4m3fn."""


def open_checkpoint(model: Path, parts: ModelParts = NO_PARTS) -> Checkpoint:
    """Opens a published model: a diffusers folder, a single file, or ComfyUI's `models` folder.

    Args:
        model: its path, or its id on the Hugging Face hub.
        parts: where the parts come from that it lacks.

    Raises:
        ModelError: there is no model, a part is missing, or several files may be meant.
    """
    name, model = model.name, locate(model)
    given, components = parts.given, parts.components
    if model.is_file():
        inside = components_beside(model) if components is None else ()
        files = dict.fromkeys(("transformer", *inside), model) | given
        models = folder_around(model)
    elif exists(model / "transformer") or (models := models_folder(model)) is None:
        if components is not None:
            raise ModelError(
                f"--components {components} is for a --model that is a file; {model} is a folder"
            )
        if not given:
            return FolderCheckpoint(model, name=name)
        return SplitCheckpoint(model, name, given, model)
    else:
        files = find(models, ("transformer",)) | given
        if "transformer" not in files:
            raise ModelError(
                f"no file in {models} is a Qwen-Image transformer by its name: give it with "
                "--model FILE, or a folder in diffusers layout"
            )
    if components is None and models is not None:
        files = find(models, [name for name in OPTIONS if name not in files]) | files
    for component, path in files.items():
        log.info("%s: %s", TITLES[component], path)
    transformer = files["transformer"]
    return SplitCheckpoint(model, transformer.stem, files, components)


def open_source(
    model: Path,
    turbo_lora: Path | None,
    schedule: str | None = None,
    parts: ModelParts = NO_PARTS,
) -> Source:
    """Opens a published model or a prepared folder.

    Args:
        model: see `open_checkpoint`.
        turbo_lora: the few-step LoRA to fuse into a checkpoint.
        schedule: a value of `--schedule`; None: what the Turbo LoRA was trained on.
        parts: see `open_checkpoint`.

    Raises:
        ModelError: it is neither; or it is a prepared folder that was not finished, or that was
            made with another Turbo LoRA or schedule.
    """
    folder = locate(model)
    if (folder / UNFINISHED).is_file():
        raise ModelError(
            f"preparing {folder} was interrupted: run `wuliart-server prepare` again to continue"
        )
    if not is_prepared(folder):
        return StockSource(open_checkpoint(model, parts), turbo_lora, schedule)
    if parts != NO_PARTS:
        raise ModelError(
            f"{folder} is prepared, with all its parts: leave --text-encoder, --vae and "
            "--components out, or prepare it again with others"
        )
    source = PreparedSource(folder)
    if turbo_lora is not None:
        raise ModelError(
            f"{folder} was prepared with {source.turbo_lora or 'no Turbo LoRA'}: leave "
            "--turbo-lora out, or prepare it again with another"
        )
    if schedule is not None and not source.has_schedule(schedule):
        raise ModelError(
            f"{folder} was prepared for the schedule {source.schedule.schedule}: leave --schedule "
            "out, or prepare it again with another"
        )
    return source


def choose_weight_kind(
    source: Source, device: torch.device, given: WeightKind | None
) -> WeightKind:
    """Returns how the blocks' matrices will lie in memory.

    Args:
        source: may have them in one kind only.
        device: may be unable to multiply a kind.
        given: the value of `--weights`; None if it was left out.

    Raises:
        ModelError: the source has another kind, or the card does not support it.
    """
    if given and source.kind and given is not source.kind:
        raise ModelError(
            f"{source.where} was prepared with {source.kind} weights, not {given}: leave "
            "--weights out, or prepare it again"
        )
    kind = given or source.kind or source.stored_kind
    if kind is WeightKind.FP8 and device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if capability < FP8_CAPABILITY and given is source.kind is None:
            log.info(
                "weights: widened to bf16, as this card does not multiply fp8 (it needs compute "
                "capability 8.9, and has %d.%d)",
                *capability,
            )
            return WeightKind.BF16
        if capability < FP8_CAPABILITY:
            raise ModelError(
                "--weights fp8 needs a card of compute capability 8.9 (Ada, Hopper) or later; "
                f"this one has {capability[0]}.{capability[1]}: use bf16 (a prepared folder is "
                "prepared again with --weights bf16)"
            )
    return kind
