"""Sets environment variables and Hypothesis up before any test module is imported."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

import hypothesis
import torch

if not torch.cuda.is_available():
    # Triton reads it at its first import.
    os.environ["TRITON_INTERPRET"] = "1"

# Managers that tests start do not use the developer's cache. All workers of a run share this one.
if "WULIART_TEST_CACHE" not in os.environ:
    os.environ["WULIART_TEST_CACHE"] = os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)

# How long an example takes says something about the machine, not about the code.
hypothesis.settings.register_profile("wuliart", deadline=None)
hypothesis.settings.load_profile("wuliart")
