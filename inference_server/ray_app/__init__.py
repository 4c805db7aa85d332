"""The service on many GPUs: the same contract, engine and LoRA manager on Ray Serve.

Owns the two applications and their options. Needs the extra `ray`; nothing outside this package
knows of it. See docs/scale-out.md.
"""

from inference_server.ray_app.app import front, replicas

__all__ = ["front", "replicas"]
