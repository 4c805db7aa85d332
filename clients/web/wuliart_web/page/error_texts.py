"""Texts for errors of the service: what happened and what to do, in the page's language."""

from __future__ import annotations

import math
from typing import Final

from wuliart_client import Busy, Unavailable, WuliArtError
from wuliart_contract.status import Reason
from wuliart_web.texts import Texts

_KEYS: Final[dict[str, str]] = {
    Reason.INVALID_REQUEST: "invalid",
    Reason.ADAPTER_NOT_FOUND: "style_unknown",
    Reason.ADAPTER_REFUSED: "style_refused",
    Reason.QUEUE_FULL: "queue_full",
    Reason.NO_FREE_SLOT: "no_slot",
    Reason.MANAGER_UNAVAILABLE: "no_manager",
    Reason.RATE_LIMITED: "rate_limited",
    Reason.UNAUTHENTICATED: "unauthenticated",
    Reason.STARTING: "starting",
    Reason.DRAINING: "draining",
    Reason.NON_FINITE: "failed",
    Reason.INTERNAL: "failed",
}


def error_text(error: WuliArtError, texts: Texts) -> str:
    """Returns the text for an error."""
    key = _KEYS.get(error.reason or "")
    if key is None:
        key = "unavailable" if isinstance(error, Unavailable) else "other"
    seconds = error.retry_after if isinstance(error, Busy) else None
    message = error.message.rstrip(" .?;")
    return texts[key].format(message=message, seconds=math.ceil(seconds or 1))
