"""Prepares a model: makes a folder in which everything is done that need be done only once.

Each file is written beside its place and renamed, so every file in its place is complete; a run
that was interrupted resumes where it stopped. Works part by part: at most one block, the Turbo LoRA
and the timestep's tables are in memory at a time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from inference_server.errors import ModelError
from inference_server.loading.prepare_inputs import (
    SourceStamps,
    code_hash,
    file_hash,
    file_stamps,
)
from inference_server.loading.prepared_parts import parts, write_part
from inference_server.loading.sources import NO_PARTS, open_checkpoint
from inference_server.model.prompt import PromptTokenizer
from inference_server.model.schedule import ScheduleTable
from inference_server.model.vae import VaeConfig, VaeDecoder
from inference_server.model.weights.checkpoint import (
    COMPONENTS,
    FolderCheckpoint,
    write_small_files,
)
from inference_server.model.weights.foreign_layouts import TITLES
from inference_server.model.weights.hub import locate
from inference_server.model.weights.manifest import (
    FORMAT,
    remark_entries,
    schedule_entry,
    stamp_of,
    write_manifest,
)
from inference_server.model.weights.model_files import MAX_CONFIG_BYTES, exists, read_inside
from inference_server.model.weights.prepared_files import (
    DTYPE,
    UNFINISHED,
    is_prepared,
    small_file_hashes,
    whole,
)
from inference_server.model.weights.source import StockSource
from inference_server.model_parts import ModelParts
from inference_server.weight_kind import WeightKind


def prepare(
    model: Path,
    turbo_lora: Path | None,
    out: Path,
    *,
    kind: WeightKind | None = None,
    schedule: str | None = None,
    given: ModelParts = NO_PARTS,
    progress: Progress,
) -> None:
    """Makes `out` a prepared folder.

    Args:
        model: see `open_checkpoint`.
        turbo_lora: few-step LoRA to fuse, or None.
        out: a new folder, or one that the same call began.
        kind: how the blocks' matrices are stored; None: as the checkpoint has them.
        schedule: a value of `--schedule`; None: what the Turbo LoRA was trained on.
        given: where the parts come from that the model lacks.
        progress: shows how far the run has come.

    Raises:
        ModelError: the source cannot be used or changed meanwhile, or `out` holds something else.
        OSError: `out` cannot be written; what was written stays, and the next run resumes.
    """
    if is_prepared(found := locate(model)):
        raise ModelError(f"{found} is prepared already: give the checkpoint it was made from")
    checkpoint = open_checkpoint(model, given)
    stamps = SourceStamps(checkpoint, turbo_lora)
    source = StockSource(checkpoint, turbo_lora, schedule)
    chosen, kind = source.schedule, kind or source.stored_kind
    remarks = source.remarks(kind)
    levels = ScheduleTable.build(chosen.schedule).rows
    # What the server would refuse is better refused before an hour of work.
    PromptTokenizer(checkpoint)
    VaeDecoder(VaeConfig.from_json(source.config("vae")), source.vae(), torch.device("cpu"), DTYPE)
    weights = file_stamps(source.paths)
    about = {
        "format": FORMAT,
        "code": code_hash(),
        "torch": torch.__version__,
        "model": source.name,
        "turbo_lora": source.turbo_lora,
        "parameters": source.parameters,
        "weights": kind.value,
        "remarks": remark_entries(remarks),
        "schedule": schedule_entry(chosen.schedule),
        "schedule_why": chosen.why,
        "warning": chosen.warning,
        "levels": list(levels),
        "small_files": stamps.small_files,
        "files": weights | stamps.turbo,
    }
    everything = list(parts(source, levels, kind))
    _begin(out, about)
    for component, path in checkpoint.files.items():
        progress.console.print(f"{TITLES[component]}: {path}", soft_wrap=True)
    progress.console.print(f"schedule {chosen.schedule}: {chosen.why}", soft_wrap=True)
    if chosen.warning:
        progress.console.print(f"warning: {chosen.warning}", soft_wrap=True)
    progress.console.print(f"weights: {kind}", soft_wrap=True)
    for remark in remarks:
        lead = "warning: " if remark.warning else ""
        progress.console.print(f"{lead}{remark.text}", soft_wrap=True)
    for component in COMPONENTS:
        (out / component).mkdir(parents=True, exist_ok=True)
        write_small_files(checkpoint, component, out / component)
    task = progress.add_task("preparing", total=len(everything) + len(source.paths))
    stamp = stamp_of(about)
    for part in everything:
        if not (out / part.name).is_file():
            write_part(out, part, stamp)
        progress.advance(task)
    hashes = {}
    for path in source.paths:
        hashes[str(path)] = file_hash(path)
        progress.advance(task)
    stamps.check_unchanged(weights, out)
    if small_file_hashes(FolderCheckpoint(out)) != stamps.small_files:
        raise ModelError(f"a config or the tokenizer in {out} changed: remove it and start again")
    write_manifest(out, about, hashes)
    (out / UNFINISHED).unlink()


def _begin(out: Path, about: Mapping[str, Any]) -> None:
    """Claims `out`, or resumes a run that was begun with the same inputs.

    Raises:
        ModelError: `out` holds something else, or was begun with other inputs.
    """
    unfinished, text = out / UNFINISHED, json.dumps(about)
    if exists(unfinished):
        if read_inside(out, unfinished, MAX_CONFIG_BYTES) != text.encode():
            raise ModelError(
                f"{out} was started from other files or options, or by another version; remove it "
                "and start again"
            )
        return
    if is_prepared(out):
        raise ModelError(f"{out} is prepared already; give another --out, or remove it first")
    if exists(out) and not out.is_dir():
        raise ModelError(f"{out} is not a folder; give a new or empty one with --out")
    if exists(out) and any(out.iterdir()):
        raise ModelError(f"{out} holds something else; give an empty or new folder")
    with whole(unfinished) as part:
        part.write_text(text, encoding="utf-8")
