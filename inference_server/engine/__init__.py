"""One image: prompt to embedding, embedding and noise to latents, latents to pixels."""
