"""What a failure says to a visitor: what happened, and what to do next, in the page's language.

Owns which words belong to which failure; the words themselves are `words`'.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from wuliart_client import Busy, Unavailable, WuliArtError
from wuliart_contract.status import Reason

_BY_REASON: Final[dict[str, str]] = {
    Reason.INVALID_REQUEST: "invalid",
    Reason.ADAPTER_NOT_FOUND: "style_unknown",
    Reason.ADAPTER_REFUSED: "style_refused",
    Reason.QUEUE_FULL: "queue_full",
    Reason.NO_FREE_SLOT: "no_slot",
    Reason.MANAGER_UNAVAILABLE: "no_manager",
    Reason.RATE_LIMITED: "rate_limited",
    Reason.UNAUTHENTICATED: "stranger",
    Reason.STARTING: "starting",
    Reason.DRAINING: "draining",
    Reason.NON_FINITE: "failed",
    Reason.INTERNAL: "failed",
}


def told(failure: WuliArtError, said: Mapping[str, str]) -> str:
    """Plain words for a failure; `said` is what `words.spoken` gives."""
    key = _BY_REASON.get(failure.reason or "")
    if key is None:
        key = "gone" if isinstance(failure, Unavailable) else "other"
    seconds = failure.retry_after if isinstance(failure, Busy) else None
    message = failure.message.rstrip(" .?;")
    return said[key].format(message=message, seconds=math.ceil(seconds or 1))
