"""Reads weights from checkpoints and prepared folders, and packs them into flat buffers."""
