"""Adapters in memory: the segment, the life of its slots, and what the world is told of them."""
