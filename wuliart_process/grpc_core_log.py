"""Imports gRPC with its C core's log off; must be imported before anything that imports grpc.

The core writes to standard error by itself: a line for each failed TLS handshake and for each
connection that the server closes, and one a second while descriptors are lacking. These lines
neither pass through `logging` nor through `sys.stderr`, so a full pipe would block the core's own
threads. The core reads its level once, when grpc is imported. `GRPC_VERBOSITY` or `GRPC_TRACE` in
the environment, or importing grpc first, leaves the level as it is; the environment itself is not
changed.
"""

from __future__ import annotations

import os

if "GRPC_VERBOSITY" in os.environ or "GRPC_TRACE" in os.environ:
    import grpc
else:
    os.environ["GRPC_VERBOSITY"] = "NONE"
    try:
        import grpc
    finally:
        del os.environ["GRPC_VERBOSITY"]

__all__ = ["grpc"]
