"""`wuliart generate`: one image from a prompt to a file."""

from __future__ import annotations

import argparse
import dataclasses
import errno
import os
import re
from pathlib import Path
from typing import Final

from wuliart_client import cli_recipe
from wuliart_client._client import Client
from wuliart_client._events import Event, Started, Step
from wuliart_client._image import naming
from wuliart_client._requests import AdapterWeight
from wuliart_client.cli_progress import progress_on
from wuliart_client.cli_terminal import Terminal, as_json
from wuliart_contract.limits import MAX_PROMPT_TOKENS, MAX_STEPS, MIN_STEPS

_WEIGHT: Final = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")


def parse_adapter(text: str) -> AdapterWeight:
    """`NAME` or `NAME:WEIGHT`; a name may hold colons, so only a number after the last is one."""
    name, colon, weight = text.rpartition(":")
    return (
        AdapterWeight(name, float(weight))
        if colon and _WEIGHT.fullmatch(weight)
        else AdapterWeight(text)
    )


def parse_seed(text: str) -> int:
    """A seed: 0 to 2**64 - 1. Raises argparse.ArgumentTypeError."""
    if not (text.isdecimal() and int(text) < 1 << 64):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a whole number from 0 to {(1 << 64) - 1}"
        )
    return int(text)


def parse_timeout(text: str) -> float:
    """A positive number of seconds. Raises argparse.ArgumentTypeError."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of seconds")
    return seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `wuliart generate`."""
    parser.add_argument("prompt", nargs="?", help="what the image shows, in English or Chinese")
    parser.add_argument(
        "--like",
        type=Path,
        metavar="FILE",
        help="generate this image again; other arguments override its recipe",
    )
    parser.add_argument(
        "--seed", type=parse_seed, help="seed of the initial noise (default: the server picks one)"
    )
    parser.add_argument(
        "--steps",
        type=int,
        choices=range(MIN_STEPS, MAX_STEPS + 1),
        metavar="N",
        help="denoising steps (default: what the model was made for, as `wuliart info` says; of "
        "four, 3 are a preview, 2 a draft)",
    )
    parser.add_argument(
        "--adapter",
        dest="adapters",
        metavar="NAME[:WEIGHT]",
        type=parse_adapter,
        action="append",
        default=[],
        help="use this adapter, with a weight from -4 to 4 (default 1); up to four times",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("outputs"),
        metavar="DIR",
        help="folder of the image (default: outputs); nothing in it is overwritten",
    )
    parser.add_argument(
        "--preview", action="store_true", help="ask for a preview of each step, without keeping it"
    )
    parser.add_argument(
        "--preview-dir",
        type=Path,
        metavar="DIR",
        help="ask for previews and write them there as step-1.jpg, … (overwritten)",
    )
    parser.add_argument(
        "--no-metadata",
        dest="metadata",
        action="store_false",
        help="leave prompt, seed and adapters out of the image's file",
    )
    parser.add_argument(
        "--timeout", type=parse_timeout, metavar="S", help="give up after this many seconds"
    )
    parser.add_argument(
        "--json", action="store_true", help="print one line of JSON; progress goes to stderr"
    )


def complaint(arguments: argparse.Namespace) -> str | None:
    """Returns an error in the combination of arguments, if there is one."""
    if arguments.prompt is None and arguments.like is None:
        return "generate needs a prompt, or --like FILE"
    return None


def write_preview(directory: Path, step: Step) -> None:
    """Replaces the step's preview atomically, so that a viewer never sees a partial file."""
    if step.preview is not None:
        path = directory / f"step-{step.step}.jpg"
        part = directory / f".step-{step.step}.part"
        with naming(path):
            part.write_bytes(step.preview)
            part.replace(path)


def make_folder(path: Path) -> None:
    """Creates the folder if it is missing; raises OSError if it is not writable."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def run(client: Client, arguments: argparse.Namespace, terminal: Terminal) -> None:
    """Generates the image, saves it, and prints its path."""
    recipe = cli_recipe.load(arguments.like) if arguments.like else None
    if recipe is not None:
        cli_recipe.fill(arguments, recipe)
    # First of all: the image would be lost if the folder turned out to be read-only afterwards.
    make_folder(arguments.out)
    preview_directory: Path | None = arguments.preview_dir
    if preview_directory is not None:
        make_folder(preview_directory)

    ignored_tokens = 0
    with progress_on(terminal.err if arguments.json else terminal.out) as progress:

        def on_event(event: Event) -> None:
            nonlocal ignored_tokens
            progress.show(event)
            if isinstance(event, Started):
                ignored_tokens = event.prompt_tokens_ignored
            elif isinstance(event, Step) and preview_directory is not None:
                write_preview(preview_directory, event)

        image = client.generate_image(
            arguments.prompt,
            seed=arguments.seed,
            steps=arguments.steps,
            adapters=arguments.adapters,
            preview=arguments.preview or preview_directory is not None,
            metadata=arguments.metadata,
            timeout=arguments.timeout,
            on_event=on_event,
        )
    path = image.save(arguments.out)
    for adapter in image.skipped_adapters:
        terminal.note(f"warning: an adapter was left out: {adapter.message}")
    if ignored_tokens:
        terminal.note(
            f"the prompt's last {ignored_tokens} tokens were not read: "
            f"the model reads {MAX_PROMPT_TOKENS}; shorten the prompt"
        )
    if recipe is not None:
        for change in cli_recipe.changes(recipe, image, client.info().model):
            terminal.note(f"this may not be the same image: {change}")
    if arguments.json:
        report = {
            "path": str(path),
            "seed": image.seed,
            "steps": image.steps,
            "adapters": [dataclasses.asdict(use) for use in image.adapters],
            "skipped_adapters": [dataclasses.asdict(adapter) for adapter in image.skipped_adapters],
            "timings": dataclasses.asdict(image.timings),
        }
        terminal.line(as_json(report))
    else:
        terminal.line(f"seed {image.seed}")
        terminal.line(f"saved {path}")
