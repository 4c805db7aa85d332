"""What must be so before any test's module is imported."""

from __future__ import annotations

import os

import torch

if not torch.cuda.is_available():
    # Triton reads it when it is first imported, by whatever test that is.
    os.environ["TRITON_INTERPRET"] = "1"
