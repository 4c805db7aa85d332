"""What must be so before any test's module is imported."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

import torch

if not torch.cuda.is_available():
    # Triton reads it when it is first imported, by whatever test that is.
    os.environ["TRITON_INTERPRET"] = "1"

# Of the managers that tests start: not the developer's own. Workers of one run share it.
if "WULIART_TEST_CACHE" not in os.environ:
    os.environ["WULIART_TEST_CACHE"] = os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)
