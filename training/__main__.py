"""Runs every training that needs a GPU: base, Turbo LoRA, style adapters (`python -m training`).

The runs share renderings, targets, and compiled code. Each saves its results when it ends, so a
later run can continue from there on its own.
"""

from __future__ import annotations

from training import base, options, style_adapters, turbo

if __name__ == "__main__":
    options.run(__doc__, *((part.arguments, part.train) for part in (base, turbo, style_adapters)))
