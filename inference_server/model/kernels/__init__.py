"""The operations of the networks: reference in PyTorch, Triton kernels, and the choice."""
