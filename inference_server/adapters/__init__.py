"""Adapters in memory: the segment, its slots, the catalogue, and the binding of requests."""
