"""The service on many GPUs: the same contract, engine and LoRA manager on Ray Serve.

Owns everything that knows of Ray; `app` is what its configuration names. Needs the extra `ray`. See
docs/scale-out.md.
"""
