"""The judge: a small network that reads from an image what it shows, trained on held-out scenes."""
