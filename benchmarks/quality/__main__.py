"""Generates images, compares them with references, and reports: `python -m benchmarks.quality`.

Exits with 1 if a promise is not kept.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

# Set before torch is loaded, as in the server's entry point.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.quality import prompts, reconstruction, results, scoring, sheet, sheet_rows
from benchmarks.quality.image_generator import Generated, ImageGenerator, ImageSpec
from benchmarks.quality.references import LOOKS, References
from benchmarks.quality.store import Store
from benchmarks.report import print_table
from inference_server.config import EMBEDDED_MODEL, EMBEDDED_TURBO
from inference_server.errors import ModelError
from training.data import concepts as table
from training.data.concepts import Concept
from training.data.fetch import FetchError
from training.data.icons import IconError
from training.styles import STYLES
from wuliart_lora import LoraError

TRAINING = Path(".run/training")
KEPT = Path(".run/quality")
RESULTS = Path("benchmarks/results/quality.json")
SHEET = Path("docs/quality.png")


def options() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality")
    add = parser.add_argument
    add("--prompts", type=int, default=200, help="number in English, in Chinese, and with the base")
    add("--table-prompts", type=int, default=50, help="number for the table of steps")
    add("--adapter-prompts", type=int, default=50, help="number for each style adapter")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--fresh", action="store_true", help="ignore stored images and results")
    add("--turbo", type=Path, default=EMBEDDED_TURBO, help="Turbo LoRA")
    add("--loras", type=Path, default=Path("loras"), help="folder of the style adapters")
    chosen = parser.parse_args()
    most = len(table.read())
    if not 1 <= chosen.prompts <= most or chosen.table_prompts < 1 or chosen.adapter_prompts < 1:
        parser.error(f"--prompts is 1 to {most}, the other counts at least 1")
    if chosen.device == "auto":
        chosen.device = "cuda" if torch.cuda.is_available() else "cpu"
    return chosen


def progress() -> Progress:
    """Returns a progress display on stderr, so that stdout stays machine-readable."""
    columns = (TextColumn("{task.description:24}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))


def generate(
    generator: ImageGenerator, series: dict[str, scoring.Series], bar: Progress
) -> dict[ImageSpec, Generated]:
    """Generates the images of all series, each distinct one once."""
    images: dict[ImageSpec, Generated] = {}
    for name, rows in series.items():
        for _, spec in bar.track(rows, description=name):
            if spec not in images:
                images[spec] = generator.generate(spec)
    return images


def measure(chosen: argparse.Namespace, concepts: Sequence[Concept]) -> bool:
    """Measures and reports everything; returns True if all promises are kept."""
    device = torch.device(chosen.device)
    turbo = chosen.turbo if chosen.turbo.is_file() else None
    if turbo is None:
        print(f"{chosen.turbo} is missing: generating without Turbo", file=sys.stderr)
    store = Store(KEPT, chosen.fresh)
    generator = ImageGenerator(EMBEDDED_MODEL, turbo, chosen.loras, device=device, store=store)
    counts = scoring.Counts(chosen.prompts, chosen.table_prompts, chosen.adapter_prompts)
    titles = {s.name: s.title for s in STYLES if generator.adapter_file(s.name).is_file()}
    chosen_prompts = prompts.choose(concepts, counts.prompts)
    series = scoring.plan(chosen_prompts, prompts.ten_seeds(concepts), counts, list(titles))

    with progress() as bar, torch.inference_mode():
        sets = {name for names, _ in LOOKS.values() for name in names}
        task = bar.add_task("renderings", total=len(sets) * len(concepts))
        references = References(
            concepts, TRAINING, store=store, device=device, advance=lambda: bar.advance(task)
        )
        task = bar.add_task("VAE", total=reconstruction.COUNT)
        psnr = reconstruction.measure(generator, concepts, TRAINING, lambda: bar.advance(task))
        images = generate(generator, series, bar)
        task = bar.add_task("comparing", total=len(series))
        scorer = scoring.Scorer(references, device)
        styles = [s.name for s in STYLES]
        found = results.evaluate(
            series, images, scorer, psnr=psnr, styles=styles, advance=lambda: bar.advance(task)
        )
        sheet.save(sheet_rows.build(series, images, references, titles), SHEET)

    figures = results.figures(found)
    print_table(figures)
    results.print_steps(found)
    facts = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "turbo": turbo.name if turbo else None,
        "weights": generator.key("turbo"),
    }
    line = json.dumps(
        facts | results.everything(found, series, images, concepts), ensure_ascii=False
    )
    print(line)
    RESULTS.write_text(line + "\n", encoding="utf-8")
    return all(figure.holds for figure in figures)


def main() -> None:
    """Runs the benchmark; exits with one line if it cannot."""
    chosen = options()
    try:
        holds = measure(chosen, table.read())
    except ModuleNotFoundError as error:
        if error.name != "resvg_py":
            raise
        sys.exit(
            "the renderer is missing: .venv/bin/pip install -r training/requirements-data.lock"
        )
    except (ModelError, LoraError, FetchError, IconError) as error:
        sys.exit(str(error))
    sys.exit(not holds)


if __name__ == "__main__":
    main()
