"""How good the embedded model's images are: `python -m benchmarks.quality`."""
