"""Measures the service's promises: `make bench`."""
