"""Adapters in memory: the segment, its slots, the catalog, and the binding of requests."""
