"""The page itself, built on Gradio: one prompt, one button, an image that sharpens in place."""
