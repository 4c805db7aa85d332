"""`wuliart info`: describes the server, or how an image was generated."""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from rich.filesize import decimal
from rich.table import Table

from wuliart_client import cli_recipe
from wuliart_client._client import Client
from wuliart_client._server_info import ModelDescription, ServerInfo
from wuliart_client.cli_terminal import Terminal, as_json, visible

_LANGUAGE: Final = "en"
_EXAMPLES: Final = 6
"""Example prompts that are printed, others each time; `--json` has all."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `wuliart info`."""
    parser.add_argument(
        "image", type=Path, nargs="?", metavar="FILE", help="describe this image instead"
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON")


def run(client: Client, arguments: argparse.Namespace, terminal: Terminal) -> None:
    """Print the server's or the image's description."""
    if arguments.image is not None:
        recipe = cli_recipe.load(arguments.image)
        if arguments.json:
            terminal.line(as_json(recipe))
        else:
            terminal.table(cli_recipe.table(recipe))
        return
    info = client.info()
    if arguments.json:
        terminal.line(as_json(info))
    else:
        terminal.table(info_table(client.target, info))


def info_table(target: str, info: ServerInfo) -> Table:
    """Returns a table with one row per property."""
    table = Table.grid(padding=(0, 2))
    model, device, limits = info.model, info.device, info.limits
    rows = [
        ("server", f"{target}, version {info.version}"),
        ("model", f"{model.name}{', ships with the package' if model.embedded else ''}"),
        *(() if model.description is None else _introduction(model.description)),
        ("parameters", f"{model.transformer_parameters:,}"),
        ("turbo LoRA", model.turbo_lora or "none"),
        ("device", f"{device.name} ({device.kind}, {device.dtype})"),
        ("image", f"{limits.width}x{limits.height}, JPEG quality {limits.jpeg_quality}"),
        ("steps", f"{limits.min_steps} to {limits.max_steps}, default {limits.default_steps}"),
        ("schedule", f"{model.schedule}: {model.schedule_reason}"),
        *(("warning", warning) for warning in model.warnings),
        *(("weights", note) for note in model.notes),
        *(
            (f"σ of {len(sigmas) - 1}", " ".join(f"{sigma:.4g}" for sigma in sigmas))
            for sigmas in model.schedules
        ),
        (
            "prompt",
            f"up to {limits.max_prompt_characters} characters, "
            f"{limits.max_prompt_tokens} tokens are read",
        ),
        (
            "adapters",
            f"up to {limits.max_adapters} an image, weight ±{limits.max_adapter_weight:g}, "
            f"rank up to {limits.max_adapter_rank}, {limits.adapter_slots} slots",
        ),
        ("queue", f"{info.queue_length} now, up to {limits.queue_capacity} waiting"),
        ("LoRA manager", "connected" if info.lora_manager_connected else "not connected"),
        *(
            (
                segment.name,
                f"{decimal(segment.used_bytes)} of {decimal(segment.size_bytes)} "
                f"({segment.location})",
            )
            for segment in info.segments
        ),
    ]
    for name, value in rows:
        table.add_row(visible(name), visible(value))
    return table


def _introduction(description: ModelDescription) -> Iterator[tuple[str, str]]:
    """Yields the rows of what a small model knows, with a few example prompts."""
    for introduction in description.introductions:
        if introduction.language == _LANGUAGE:
            yield "about", introduction.summary
            prompts = introduction.example_prompts
            for prompt in random.sample(prompts, min(_EXAMPLES, len(prompts))):
                yield "example", prompt
