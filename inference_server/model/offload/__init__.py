"""Weights that do not stay on the device: host copies, the ring, the block cache."""
