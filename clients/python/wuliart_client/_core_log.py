"""Imports gRPC with the log of its C core kept to errors; to be imported before anything else.

The core writes to standard error on its own, for example a line for each connection that a server
closes, which would stand in the middle of a command's output. It reads its level once, when grpc
is imported. `GRPC_VERBOSITY` or `GRPC_TRACE` in the environment, or importing grpc first, leaves
it as it is; the environment itself is not changed.
"""

from __future__ import annotations

import os

if "GRPC_VERBOSITY" in os.environ or "GRPC_TRACE" in os.environ:
    import grpc
else:
    os.environ["GRPC_VERBOSITY"] = "ERROR"
    try:
        import grpc
    finally:
        del os.environ["GRPC_VERBOSITY"]

__all__ = ["grpc"]
