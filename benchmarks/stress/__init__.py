"""The service under stress: `python -m benchmarks.stress`."""
