"""Layers in host memory: the ring, the block cache, and pinned memory."""
