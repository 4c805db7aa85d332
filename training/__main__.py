"""Trains all that follows the VAE: text encoder, base, Turbo LoRA, styles (`python -m training`).

The runs share renderings, targets, and compiled code. Each saves its results when it ends, so a
later run can continue from there on its own.
"""

from __future__ import annotations

from training import base, naming, options, style_adapters, turbo

if __name__ == "__main__":
    runs = (naming, base, turbo, style_adapters)
    options.run(__doc__, *((part.arguments, part.train) for part in runs))
