"""Generates images, judges and compares them, and reports: `python -m benchmarks.quality`.

Without a trained judge everything else is measured. Exits with 1 if a promise is not kept, or could
not be judged.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

# Set before torch is loaded, as in the server's entry point.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.quality import comparing, judging, results, series, sheet, vae
from benchmarks.quality.clean import Bars
from benchmarks.quality.image_generator import Generated, ImageGenerator, ImageSpec
from benchmarks.quality.judge import reading
from benchmarks.quality.judge.network import Judge
from benchmarks.quality.judge.reading import JudgeError
from benchmarks.quality.results import Compared
from benchmarks.quality.series import ROWS, SEEDS, Counts, Series
from benchmarks.quality.store import Store
from benchmarks.quality.truth import Truth
from benchmarks.report import Figure, print_table
from inference_server.config import EMBEDDED_MODEL, EMBEDDED_TURBO
from inference_server.errors import ModelError
from training.data import concepts as table
from training.data.fetch import FetchError
from training.data.icons import IconError
from training.data.images import collect_svgs
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
    add("--each", type=int, default=200, help="prompts of each group, at most")
    add("--table-prompts", type=int, default=48, help="number for the table of steps")
    add("--adapter-prompts", type=int, default=48, help="number for each style adapter")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--fresh", action="store_true", help="ignore stored images and results")
    add("--model", type=Path, default=EMBEDDED_MODEL, help="checkpoint")
    add("--turbo", type=Path, default=EMBEDDED_TURBO, help="Turbo LoRA")
    add("--loras", type=Path, default=Path("loras"), help="folder of the style adapters")
    add("--out", type=Path, default=RESULTS, help="file of the JSON line")
    add("--sheet", type=Path, default=SHEET, help="file of the contact sheet")
    chosen = parser.parse_args()
    if min(chosen.each, chosen.table_prompts, chosen.adapter_prompts) < 1:
        parser.error("the counts are at least 1")
    if chosen.device == "auto":
        chosen.device = "cuda" if torch.cuda.is_available() else "cpu"
    return chosen


def progress() -> Progress:
    """Returns a progress display on stderr, so that stdout stays machine-readable."""
    columns = (TextColumn("{task.description:24}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))


def generate(
    generator: ImageGenerator, planned: dict[str, Series], bar: Progress
) -> dict[ImageSpec, Generated]:
    """Generates the images of all series, each distinct one once."""
    images: dict[ImageSpec, Generated] = {}
    for name, rows in planned.items():
        for _, spec in bar.track(rows, description=name):
            if spec not in images:
                images[spec] = generator.generate(spec)
    return images


def compare(
    generator: ImageGenerator,
    planned: dict[str, Series],
    images: dict[ImageSpec, Generated],
    truth: Truth,
    bar: Progress,
) -> Compared:
    """Compares all images with the right ones, and looks for faults."""
    looks = {style.name: style.look for style in STYLES}
    task = bar.add_task("comparing", total=len(ROWS) + len(looks) + vae.COUNT)
    languages = series.languages(planned, len(planned[ROWS[0][0]]))

    def advance() -> None:
        bar.advance(task)

    rows = {}
    for title, _, _ in ROWS:
        rows[title] = comparing.likeness(planned[title], images, truth)
        advance()
    styled = {}
    for name, look in looks.items():
        if name in planned:
            styled[name] = comparing.styled(planned[name], images, truth, look)
        advance()
    shown = [p.shown for p, _ in planned["scenes"] if p.shown is not None][::2]
    psnr = vae.measure(generator, truth, shown[: vae.COUNT], advance)
    bars = Bars.read()
    groups = [rows for name, rows in planned.items() if results.is_group(name, list(looks))]
    faults = {
        spec.text: images[spec].error or bars.fault(images[spec].image)
        for group in groups
        for _, spec in group
    }
    found = comparing.seeds(planned[SEEDS], images, truth)
    english, chinese = (comparing.likeness(rows, images, truth) for rows in languages)
    missing = [name for name in looks if name not in planned]
    return Compared(rows, found, styled, psnr, faults, missing, english, chinese)


def load_judge(device: torch.device) -> Judge | None:
    """Loads the judge; prints one line and returns None if it is not trained for these concepts."""
    try:
        return reading.load([concept.code for concept in table.read()], device)
    except JudgeError as error:
        print(f"No judge: {error} Everything else is measured.", file=sys.stderr)
        return None


def judged(
    planned: dict[str, Series], images: dict[ImageSpec, Generated], network: Judge
) -> list[Figure]:
    """Judges the images."""
    facts = json.loads(reading.WEIGHTS.with_suffix(".json").read_text(encoding="utf-8"))

    def of(name: str) -> judging.Judged:
        rows = [(p.shown, images[spec].image) for p, spec in planned[name] if p.shown is not None]
        there = iter(reading.judge(network, [image for _, image in rows if image is not None]))
        return [(None if image is None else next(there), shown) for shown, image in rows]

    def single(name: str) -> judging.Judged:
        return [(found, shown) for found, shown in of(name) if len(shown.subjects) == 1]

    groups = {name: of(name) for names, _, _ in judging.FIGURES.values() for name in names}
    base, turbo = (single(ROWS[index][0]) for index in (5, 3))
    return judging.figures(groups, base, turbo, facts["accuracy"])


def measure(chosen: argparse.Namespace) -> bool:
    """Measures and reports everything; returns True if all promises are kept."""
    device = torch.device(chosen.device)
    turbo = chosen.turbo if chosen.turbo.is_file() else None
    if turbo is None:
        print(f"{chosen.turbo} is missing: generating without Turbo", file=sys.stderr)
    network = load_judge(device)
    store = Store(KEPT, chosen.fresh)
    generator = ImageGenerator(chosen.model, turbo, chosen.loras, device=device, store=store)
    titles = {s.name: s.title for s in STYLES if generator.adapter_file(s.name).is_file()}
    counts = Counts(chosen.each, chosen.table_prompts, chosen.adapter_prompts)
    planned = series.plan(counts, list(titles))
    collect_svgs(table.read(), TRAINING)

    with progress() as bar, torch.inference_mode():
        images = generate(generator, planned, bar)
        sheet.save(sheet.rows(planned["own"], images), chosen.sheet)
        truth = Truth(TRAINING, store, device)
        compared = compare(generator, planned, images, truth, bar)

    found = (judged(planned, images, network) if network else []) + results.figures(compared)
    print_table(found)
    results.print_steps(compared.rows)
    facts = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "turbo": turbo.name if turbo else None,
        "weights": generator.key("turbo"),
        "judged": network is not None,
        "figures": [figure.as_json() for figure in found],
        "faults": {text: fault for text, fault in compared.faults.items() if fault},
    }
    line = json.dumps(facts, ensure_ascii=False)
    print(line)
    chosen.out.write_text(line + "\n", encoding="utf-8")
    return network is not None and all(figure.holds for figure in found)


def main() -> None:
    """Runs the benchmark; exits with one line if it cannot."""
    chosen = options()
    try:
        holds = measure(chosen)
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
