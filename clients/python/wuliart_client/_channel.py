"""Where the server is and how its channel behaves, for both clients. Makes no calls."""

from __future__ import annotations

import json
import os
from typing import Final

from wuliart.contract.limits import MAX_RESPONSE_BYTES

TARGET_VARIABLE: Final = "WULIART_TARGET"
DEFAULT_TARGET: Final = "localhost:50051"

_RETRY: Final = {
    "methodConfig": [
        {
            "name": [{}],  # every method
            "retryPolicy": {
                # A call is committed at its first response: only one that never began is retried.
                "maxAttempts": 4,
                "initialBackoff": "0.2s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}

CHANNEL_OPTIONS: Final[tuple[tuple[str, int | str], ...]] = (
    ("grpc.max_receive_message_length", MAX_RESPONSE_BYTES),
    ("grpc.enable_retries", 1),
    ("grpc.service_config", json.dumps(_RETRY)),
    # As fast as the retries above, so that a server that was started again is found at once.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
)


def resolve_target(target: str | None) -> str:
    """The given target, else `$WULIART_TARGET`, else localhost:50051; `unix:/path` works too."""
    return target or os.environ.get(TARGET_VARIABLE) or DEFAULT_TARGET
