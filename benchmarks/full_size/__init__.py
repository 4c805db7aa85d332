"""Benchmarks at Qwen-Image's real size with random weights; `python -m benchmarks.full_size`."""
