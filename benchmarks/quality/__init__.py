"""How good the embedded model's pictures are: `python -m benchmarks.quality`."""
