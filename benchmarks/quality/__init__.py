"""Measures the quality of the embedded model's images: `python -m benchmarks.quality`."""
