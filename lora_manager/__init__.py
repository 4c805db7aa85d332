"""The LoRA manager: keeps the server's adapter slots in step with a directory of LoRA files.

A process of its own. Knows the contract (`wuliart`); imports neither the server, nor a client, nor
torch.
"""
