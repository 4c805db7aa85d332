"""The engine at full size with random weights, on one GPU."""
