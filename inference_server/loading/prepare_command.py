"""`wuliart-server prepare`: its command line, progress bar and error messages."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from inference_server.config import SCHEDULE_HELP
from inference_server.errors import ServerError, one_line
from inference_server.loading.prepare import prepare
from inference_server.model_parts import MODEL_HELP, add_part_options, take_parts
from inference_server.weight_kind import WeightKind


def main(arguments: list[str]) -> None:
    """Console entry point; exits with 1 and one line if the folder cannot be prepared."""
    parser = argparse.ArgumentParser(
        prog="wuliart-server prepare",
        description="Fuses the Turbo LoRA, tabulates the layers that depend on the timestep alone,"
        " reduces the VAE to two dimensions and drops weights that prompts never use. The"
        " server loads the checkpoint or the prepared folder.",
    )
    parser.add_argument(
        "--model",
        type=Path,
        required=True,
        help=MODEL_HELP,
    )
    add_part_options(parser)
    parser.add_argument("--turbo-lora", type=Path, help="few-step LoRA to fuse into the base")
    parser.add_argument("--out", type=Path, required=True, help="new folder, or an unfinished one")
    parser.add_argument(
        "--weights",
        type=WeightKind,
        choices=list(WeightKind),
        help="bf16, or fp8: half the size, for cards of the Ada and Hopper generations and later;"
        " default: as the model has them",
    )
    parser.add_argument("--schedule", metavar="NAME", help=SCHEDULE_HELP)
    chosen = parser.parse_args(arguments)
    given = take_parts(chosen)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    try:
        with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
            prepare(
                chosen.model,
                chosen.turbo_lora,
                chosen.out,
                kind=chosen.weights,
                schedule=chosen.schedule,
                given=given,
                progress=progress,
            )
    except ServerError as error:
        sys.exit(f"wuliart-server prepare: {one_line(str(error))}")
    except OSError as error:
        where = one_line(str(error.filename or chosen.out))
        sys.exit(
            f"wuliart-server prepare: cannot write {where}: {error.strerror}. Fix that and run it "
            "again: it continues from here."
        )
    except KeyboardInterrupt:
        console.print("interrupted; run it again to continue from here")
        sys.exit(130)
    console.print(f"{chosen.out} is ready: wuliart-server --model {chosen.out}", soft_wrap=True)
