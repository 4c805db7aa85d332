"""Everything that needs a GPU, one after another: `python -m training`.

Owns the order: base, Turbo, styles. Drawings, targets and compiled code are shared; each run's
results are saved when it ends, so that a later run can go on from there alone.
"""

from __future__ import annotations

from training import base, options, style, turbo
from training.studio import Studio


def main() -> None:
    """Command line."""
    parser = options.parser(__doc__)
    for run in (base, turbo, style):
        run.arguments(parser)
    chosen = parser.parse_args()
    studio = Studio(chosen)
    for run in (base, turbo, style):
        run.train(studio, chosen)
        print(f"== {run.__name__} done", flush=True)


if __name__ == "__main__":
    main()
