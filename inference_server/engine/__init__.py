"""Generates images with a loaded model: prompt embeddings, latents, pixels, JPEGs."""
