"""Builds a model for one device: plans memory, loads weights, prepares folders."""
