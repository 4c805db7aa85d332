"""`wuliart-server prepare`: does once what need be done only once.

Owns the order, progress and resumption. Each file is written beside its place and renamed, so that
what is there is whole; a run that was broken off goes on where it stopped. Part by part: no more
than one block, the Turbo LoRA and the timestep's tables are in memory at a time.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from inference_server import VERSION
from inference_server.config import SCHEDULE_HELP
from inference_server.errors import ModelError, ServerError, one_line
from inference_server.model.prompt import PromptTokenizer
from inference_server.model.schedule import ScheduleTable
from inference_server.model.text_encoder import TextConfig
from inference_server.model.transformer_weights import TransformerConfig
from inference_server.model.vae import VaeConfig, VaeDecoder, decoder_tensors
from inference_server.model.weights import packing, prepared
from inference_server.model.weights.checkpoint import COMPONENTS, Checkpoint, copy_small_files
from inference_server.model.weights.hub import locate
from inference_server.model.weights.model_files import MAX_CONFIG_BYTES, exists, read_inside
from inference_server.model.weights.packing import Fields
from inference_server.model.weights.source import StockSource
from inference_server.model.weights.text_encoder import layer_fields
from inference_server.model.weights.transformer import block_fields
from inference_server.weight_kind import WeightKind
from wuliart_process.regular_files import open_regular

Part = tuple[str, Callable[[], dict[str, Tensor]]]
"""A file's name and what makes its tensors."""


def parts(source: StockSource, levels: Sequence[float], kind: WeightKind) -> Iterator[Part]:
    """Every file of a prepared folder, in the order in which they are written."""
    config = TransformerConfig.from_json(source.config("transformer"))
    text = TextConfig.from_json(source.config("text_encoder"))

    def tables() -> dict[str, Tensor]:
        made = source.tables(config, levels)
        modulation = made.modulation
        return {
            "blocks": modulation.blocks,
            "final": modulation.final,
            "conditioning": made.conditioning,
        }

    def flat(
        fill: Callable[[Fields, int, Tensor], None], fields: Fields, index: int
    ) -> dict[str, Tensor]:
        buffer = torch.zeros(packing.nbytes(fields), dtype=torch.uint8)
        fill(fields, index, buffer)
        return {prepared.FLAT: buffer}

    blocks = partial(flat, source.fill_block, block_fields(config, prepared.DTYPE, kind))
    text_layers = partial(flat, source.fill_text_layer, layer_fields(text, prepared.DTYPE))

    yield prepared.TABLES, tables
    yield prepared.EDGES, lambda: _in_dtype(source.edges()._asdict())
    for index in range(config.blocks):
        yield prepared.block_file(index), partial(blocks, index)
    yield prepared.TEXT_EDGES, lambda: _in_dtype(source.text_edges()._asdict())
    for index in range(text.layers):
        yield prepared.text_layer_file(index), partial(text_layers, index)
    yield prepared.VAE, lambda: _in_dtype(decoder_tensors(source.vae()))


def _in_dtype(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to(prepared.DTYPE).contiguous() for name, tensor in tensors.items()}


def prepare(
    model: Path,
    turbo_lora: Path | None,
    out: Path,
    kind: WeightKind,
    progress: Progress,
    schedule: str | None = None,
) -> None:
    """Makes `out` a prepared folder.

    Args:
        model: the checkpoint's folder, or its id on the Hugging Face hub.
        turbo_lora: few-step LoRA to fuse, or None.
        out: a new folder, or one that the same call began.
        kind: how the blocks' matrices are stored.
        progress: shows how far it is.
        schedule: as `--schedule` names it; None: what the Turbo LoRA was trained on.

    Raises:
        ModelError: the source cannot be used, or `out` holds something else.
        OSError: `out` cannot be written; what was written stays, and the next run goes on.
    """
    name, model = model.name, locate(model)
    if prepared.is_prepared(model):
        raise ModelError(f"{model} is prepared already: give the checkpoint it was made from")
    checkpoint = Checkpoint(model)
    source = StockSource(checkpoint, turbo_lora, schedule)
    chosen = source.schedule
    levels = ScheduleTable.build(chosen.schedule).rows
    # What the server would refuse is better refused before an hour of work.
    PromptTokenizer(model)
    VaeDecoder(
        VaeConfig.from_json(source.config("vae")), source.vae(), torch.device("cpu"), prepared.DTYPE
    )
    everything = list(parts(source, levels, kind))
    # All that decides what the files hold: a run that is taken up again must be of the same.
    about = json.dumps(
        {
            "format": prepared.FORMAT,
            "version": VERSION,
            "torch": torch.__version__,
            "weights": kind,
            **prepared.schedule_entry(chosen.schedule),
            "small_files": prepared.small_files(model),
            "sources": {
                str(path): [status.st_size, status.st_mtime_ns]
                for path in source.paths
                for status in (path.stat(),)
            },
        }
    )
    stamp = hashlib.sha256(about.encode()).hexdigest()
    _begin(out, about)
    progress.console.print(f"schedule {chosen.schedule}: {chosen.why}", soft_wrap=True)
    if chosen.warning:
        progress.console.print(f"warning: {chosen.warning}", soft_wrap=True)
    for component in COMPONENTS:
        (out / component).mkdir(parents=True, exist_ok=True)
        copy_small_files(model, component, out / component)
    task = progress.add_task("preparing", total=len(everything) + len(source.paths))
    for file_name, make in everything:
        if not (out / file_name).is_file():
            _write(out / file_name, make(), stamp)
        progress.advance(task)
    hashes = {}
    for path in source.paths:
        hashes[str(path)] = _sha256(path)
        progress.advance(task)
    prepared.write_manifest(
        out,
        {
            "model": name,
            "turbo_lora": source.turbo_lora,
            "parameters": source.parameters,
            "levels": list(levels),
            **prepared.schedule_entry(chosen.schedule),
            "schedule_why": chosen.why,
            "undistilled": bool(chosen.warning),
            "stamp": stamp,
            "small_files": prepared.small_files(out),
            "weights": kind,
            "sources": hashes,
        },
    )
    (out / prepared.UNFINISHED).unlink()


def _sha256(path: Path) -> str:
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from None


def _begin(out: Path, about: str) -> None:
    """Claims `out`, or goes on with a run of the same sources."""
    unfinished = out / prepared.UNFINISHED
    if exists(unfinished):
        if read_inside(out, unfinished, MAX_CONFIG_BYTES) != about.encode():
            raise ModelError(
                f"{out} was begun from other files or options, or by another version; remove it "
                "and start again"
            )
        return
    if prepared.is_prepared(out):
        raise ModelError(f"{out} is prepared already; give another --out, or remove it first")
    if exists(out) and not out.is_dir():
        raise ModelError(f"{out} is not a folder; give a new or empty one with --out")
    if exists(out) and any(out.iterdir()):
        raise ModelError(f"{out} holds something else; give an empty or new folder")
    with prepared.whole(unfinished) as part:
        part.write_text(about, encoding="utf-8")


def _write(path: Path, tensors: dict[str, Tensor], stamp: str) -> None:
    with prepared.whole(path) as part:
        try:
            save_file(tensors, part, metadata={prepared.STAMP: stamp})
        except SafetensorError as error:
            # It has the operating system's error in its text alone.
            code = re.search(r"\(os error (\d+)\)", str(error))
            number = int(code[1]) if code else errno.EIO
            raise OSError(number, os.strerror(number), str(path)) from None


def main(arguments: list[str]) -> None:
    """The command line behind `wuliart-server prepare`; exits with 1 and one line if it fails."""
    parser = argparse.ArgumentParser(
        prog="wuliart-server prepare",
        description="Fuses the Turbo LoRA, folds what the timestep alone decides, cuts the VAE to"
        " two dimensions and leaves out what a prompt never uses. The server takes either folder.",
    )
    parser.add_argument(
        "--model",
        type=Path,
        required=True,
        help="checkpoint in diffusers layout, or its id on the hub",
    )
    parser.add_argument("--turbo-lora", type=Path, help="few-step LoRA to fuse into the base")
    parser.add_argument("--out", type=Path, required=True, help="new folder, or one broken off")
    parser.add_argument(
        "--weights",
        type=WeightKind,
        choices=list(WeightKind),
        default=WeightKind.BF16,
        help="bf16, or fp8: half the size, for cards of the Ada and Hopper generations and later",
    )
    parser.add_argument("--schedule", metavar="NAME", help=SCHEDULE_HELP)
    chosen = parser.parse_args(arguments)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    try:
        with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
            prepare(
                chosen.model,
                chosen.turbo_lora,
                chosen.out,
                chosen.weights,
                progress,
                chosen.schedule,
            )
    except ServerError as error:
        sys.exit(f"wuliart-server prepare: {one_line(str(error))}")
    except OSError as error:
        where = one_line(str(error.filename or chosen.out))
        sys.exit(
            f"wuliart-server prepare: cannot write {where}: {error.strerror}. Mend that and run it "
            "again: it goes on from here."
        )
    except KeyboardInterrupt:
        console.print("interrupted; run it again to go on from here")
        sys.exit(130)
    console.print(f"{chosen.out} is ready: wuliart-server --model {chosen.out}", soft_wrap=True)
