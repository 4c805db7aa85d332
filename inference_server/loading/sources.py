"""Opens the source of a model's weights, and compares it with the operator's options."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch

from inference_server.errors import ModelError
from inference_server.model.weights.checkpoint import Checkpoint
from inference_server.model.weights.hub import locate
from inference_server.model.weights.prepared import PreparedSource
from inference_server.model.weights.prepared_files import UNFINISHED, is_prepared
from inference_server.model.weights.source import Source, StockSource
from inference_server.weight_kind import WeightKind

FP8_CAPABILITY: Final = (8, 9)
"""Smallest CUDA compute capability whose tensor cores multiply float8_e4m3fn."""


def open_source(folder: Path, turbo_lora: Path | None, schedule: str | None = None) -> Source:
    """Opens a checkpoint in diffusers layout or a prepared folder.

    Args:
        folder: its path, or its id on the Hugging Face hub.
        turbo_lora: the few-step LoRA to fuse into a checkpoint.
        schedule: a value of `--schedule`; None: what the Turbo LoRA was trained on.

    Raises:
        ModelError: it is neither; or it is a prepared folder that was not finished, or that was
            made with another Turbo LoRA or schedule.
    """
    folder = locate(folder)
    if (folder / UNFINISHED).is_file():
        raise ModelError(
            f"preparing {folder} was interrupted: run `wuliart-server prepare` again to continue"
        )
    if not is_prepared(folder):
        return StockSource(Checkpoint(folder), turbo_lora, schedule)
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
            f"{source.folder} was prepared with {source.kind} weights, not {given}: leave "
            "--weights out, or prepare it again"
        )
    kind = given or source.kind or WeightKind.BF16
    if kind is WeightKind.FP8 and device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if capability < FP8_CAPABILITY:
            raise ModelError(
                "--weights fp8 needs a card of compute capability 8.9 (Ada, Hopper) or later; "
                f"this one has {capability[0]}.{capability[1]}: use bf16"
            )
    return kind
