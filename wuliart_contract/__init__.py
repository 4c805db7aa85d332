"""What the gRPC contract cannot express: limits, error reasons, adapter names, the recipe.

The server, the LoRA manager and every client import this package. It imports none of them.
"""
