"""The networks as tensors and functions: no requests, no queues, no slots."""
