"""Renders a contact sheet of all scenes: `python -m training.data.scenes --out FILE.png`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from training.data import fetch
from training.data.scenes.scene import SETTINGS
from training.data.scenes.sheet import sheet


def main(argv: list[str] | None = None) -> int:
    """Runs the command; 0, or 1 after an error that is printed."""
    parser = argparse.ArgumentParser(prog="python -m training.data.scenes", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="PNG file to write")
    parser.add_argument("--seed", type=int, default=0, help="of every scene")
    parser.add_argument("--edge", type=int, default=256, help="edge of one image in px")
    parser.add_argument("--columns", type=int, default=9, help="images to a row")
    parser.add_argument("--settings", nargs="+", choices=tuple(SETTINGS), help="default: all")
    options = parser.parse_args(argv)
    try:
        page = sheet(options.seed, options.edge, options.columns, options.settings)
    except fetch.FetchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    page.save(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
