"""The service on many GPUs: the same contract, engine and LoRA manager, on Ray Serve.

Serve's configuration names the functions of `app`. No other package imports Ray; the extra `ray`
installs it. See docs/scale-out.md.
"""
