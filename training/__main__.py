"""Everything that needs a GPU, one after another: `python -m training`.

Owns the order: base, Turbo, styles. Drawings, targets and compiled code are shared; each run's
results are saved when it ends, so that a later run can go on from there alone.
"""

from __future__ import annotations

from training import base, options, style, turbo

if __name__ == "__main__":
    options.run(__doc__, *((part.arguments, part.train) for part in (base, turbo, style)))
