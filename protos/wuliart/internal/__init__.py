"""Contracts between the server and its LoRA manager; nothing here is public."""
