"""A second user of the machine, for tests with processes of two users."""

from __future__ import annotations

import os

import pytest

OTHER_UID = 65534

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
