"""Fetches, checks, and renders all data: `python -m training.data [--size 512] [--sets noto]`."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from functools import partial
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from training.data import concepts, fetch, icons, images


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(prog="python -m training.data", description=__doc__)
    parser.add_argument("--size", type=int, default=512, help="edge of the images in px")
    parser.add_argument("--sets", nargs="+", choices=concepts.SET_NAMES, default=concepts.SET_NAMES)
    parser.add_argument("--cache", type=Path, default=fetch.CACHE, help="folder for all files")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns 0, or 1 after printing an error."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = arguments(argv)
    started = time.monotonic()
    options.cache.mkdir(parents=True, exist_ok=True)
    try:
        table = concepts.read()
        images.collect_svgs(table, options.cache)
        paths = []
        columns = (TextColumn("{task.description:<9}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeRemainingColumn()) as progress:
            for name in options.sets:
                task = progress.add_task(name, total=len(table))
                paths.append(
                    images.render_set(
                        table,
                        name,
                        options.size,
                        cache=options.cache,
                        advance=partial(progress.advance, task),
                    )
                )
    except (fetch.FetchError, icons.IconError, concepts.TableError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for path in paths:
        print(f"{path.stat().st_size / 1e6:7.1f} MB  {path}")
    total = sum(path.stat().st_size for path in paths) / 1e6
    print(f"{len(table)} concepts, {total:.1f} MB, {time.monotonic() - started:.0f} s\n")
    print("Licences, to be named wherever the images or models trained on them are distributed:")
    print(fetch.licences())
    return 0


if __name__ == "__main__":
    sys.exit(main())
