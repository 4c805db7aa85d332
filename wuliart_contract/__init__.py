"""The part of the contract that .proto files cannot express: limits, error reasons, names, recipes.

The server, the LoRA manager and every client import this package. It imports none of them.
"""
