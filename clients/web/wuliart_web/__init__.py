"""The web page on port 7860 and an OpenAI-compatible API; a client of the gRPC service."""
