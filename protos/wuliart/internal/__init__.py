"""Contracts between the server and its LoRA manager; not public."""
