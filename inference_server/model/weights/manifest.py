"""The manifest of a prepared folder: what the folder was made from, and the stamp of its parts.

`about` holds every input that decides the content of the folder. Its hash is the stamp that each
weight file carries in its metadata, so neither the manifest nor a part can be exchanged unnoticed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from inference_server.errors import ModelError
from inference_server.model.config_values import ConfigValues
from inference_server.model.schedule import Schedule
from inference_server.model.schedule_choice import ChosenSchedule
from inference_server.model.weights.model_files import read_json
from inference_server.model.weights.prepared_files import MANIFEST, whole
from inference_server.model.weights.stored_form import Remark
from inference_server.weight_kind import WeightKind
from wuliart_contract.limits import MAX_STEPS

FORMAT: Final = 3
"""Rises when folders made before can no longer be read."""

_MAX_TEXT: Final = 2000
"""Characters of an explanation, which may contain a file's name."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """The fields of a manifest that a loader needs.

    Attributes:
        stamp: SHA-256 of `about`; every weight file carries it.
        turbo_lora: file name of the fused few-step LoRA; empty for none.
        parameters: of the transformer as it was published.
        kind: how the blocks' matrices are stored.
        schedule: the noise schedule the tables were made for.
        levels: the distinct noise levels of the tables, descending.
        remarks: what the operator should know about how the weights were stored.
        small_files: SHA-256 of configs and tokenizer files by path.
    """

    stamp: str
    turbo_lora: str
    parameters: int
    kind: WeightKind
    schedule: ChosenSchedule
    levels: tuple[float, ...]
    remarks: tuple[Remark, ...]
    small_files: Mapping[str, Any]


def stamp_of(about: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of `about` in canonical JSON."""
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def write_manifest(folder: Path, about: Mapping[str, Any], sources: Mapping[str, str]) -> None:
    """Writes the manifest, which makes the folder a prepared one.

    Args:
        folder: holds every part.
        about: every input that decides the content.
        sources: SHA-256 of the weight files that were read, by path; for information only.
    """
    content = {"format": FORMAT, "stamp": stamp_of(about), "about": about, "sources": sources}
    with whole(folder / MANIFEST) as part:
        part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """Reads a folder's manifest.

    Raises:
        ModelError: it is of another format, was changed after it was written, or is damaged.
    """
    path = folder / MANIFEST
    content = read_json(folder, path)
    manifest = ConfigValues(str(path), content)
    if (found := manifest.integer("format", least=0, most=1 << 31)) != FORMAT:
        raise ModelError(
            f"{folder} was prepared in format {found}, this server reads {FORMAT}: prepare it again"
        )
    about = manifest.table("about")
    if about is None:
        raise manifest.wrong("about", None, "a table")
    stamp = manifest.text("stamp")
    if stamp != stamp_of(content["about"]):
        raise ModelError(f"{path} was changed after {folder} was prepared: prepare it again")
    if (weights := about.text("weights")) not in list(WeightKind):
        raise about.wrong("weights", weights, " or ".join(WeightKind))
    levels = about.items("levels", most=64)
    files = about.table("small_files")
    if files is None:
        raise about.wrong("small_files", None, "a table")
    return Manifest(
        stamp=stamp,
        turbo_lora=about.text("turbo_lora", most=_MAX_TEXT),
        parameters=about.integer("parameters", most=1 << 50),
        kind=WeightKind(weights),
        schedule=ChosenSchedule(
            _schedule_of(about),
            about.text("schedule_why", most=_MAX_TEXT),
            about.text("warning", most=_MAX_TEXT),
        ),
        levels=about.numbers("levels", len(levels)),
        remarks=_remarks_of(about),
        small_files=content["about"]["small_files"],
    )


def remark_entries(remarks: Iterable[Remark]) -> list[dict[str, Any]]:
    """Returns remarks as `about` holds them."""
    return [remark._asdict() for remark in remarks]


def _remarks_of(about: ConfigValues) -> tuple[Remark, ...]:
    found = []
    for entry in about.items("remarks", [], most=16):
        if not isinstance(entry, dict):
            raise about.wrong("remarks", entry, "a list of tables")
        remark = ConfigValues(f"{about.file}: remarks", entry)
        found.append(Remark(remark.text("text", most=_MAX_TEXT), remark.flag("warning")))
    return tuple(found)


def schedule_entry(schedule: Schedule) -> dict[str, Any]:
    """Returns a schedule as `about` holds it."""
    return dataclasses.asdict(schedule)


def _schedule_of(about: ConfigValues) -> Schedule:
    entry = about.table("schedule")
    if entry is None:
        raise about.wrong("schedule", None, "a schedule")
    levels = entry.items("levels", most=MAX_STEPS)
    terminal = None
    if entry.has("terminal"):
        terminal = entry.number("terminal", least=0.0, most=1.0)
    try:
        return Schedule(
            entry.text("name"),
            entry.number("shift", least=0.0, most=1e9),
            terminal,
            entry.numbers("levels", len(levels)),
            entry.integer("steps", most=MAX_STEPS),
        )
    except ValueError as error:
        raise entry.wrong("schedule", str(error), "one that descends from 1 to 0") from None
