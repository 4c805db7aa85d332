"""OpenAI's images API under /v1, for apps that speak it already."""
