"""`python -m benchmarks [name ...]`: all of them, or the named ones."""

from __future__ import annotations

import os
import sys

# As the server's own entry point does, before anything loads torch.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from benchmarks.report import print_table
from benchmarks.service import endurance, hot_swap, overhead, stock

BENCHMARKS = {
    "service": overhead.measure,
    "hot-swap": hot_swap.measure,
    "stock": stock.measure,
    "endurance": endurance.measure,
}


def main() -> None:
    """Runs them one after another; exits with 1 if a figure is missed."""
    names = sys.argv[1:] or list(BENCHMARKS)
    figures = []
    for name in names:
        if name not in BENCHMARKS:
            sys.exit(f"no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        figures += BENCHMARKS[name]()
    print_table(figures)
    sys.exit(not all(figure.holds for figure in figures))


if __name__ == "__main__":
    main()
