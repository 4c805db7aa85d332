"""Pages of a list of adapters: how much goes into one message, and the token of the next one.

Owns the size of a message and the page token. A token names the last adapter of its page, so that
adapters which come or go between two pages move no other onto both or neither.
"""

from __future__ import annotations

from base64 import b64decode, urlsafe_b64encode
from collections.abc import Iterable, Iterator
from typing import Final

from inference_server.errors import RequestError, Violation
from wuliart.v1.adapter_pb2 import Adapter
from wuliart_contract.status import Reason

PAGE_BYTES: Final = 1 << 20
"""Of the adapters in one message, a quarter of what gRPC's clients accept by default. The longest
adapter has 24 KiB, a usual one 250 bytes."""


def fitting(adapters: Iterable[Adapter], most: int = 0) -> Iterator[list[Adapter]]:
    """The adapters in parts of up to PAGE_BYTES, and up to `most` if it is not 0; none is empty."""
    part: list[Adapter] = []
    taken = 0
    for adapter in adapters:
        size = adapter.ByteSize()
        if part and (taken + size > PAGE_BYTES or len(part) == most):
            yield part
            part, taken = [], 0
        part.append(adapter)
        taken += size
    if part:
        yield part


def token(name: str) -> str:
    """The token of the page that begins after the adapter of this name."""
    return urlsafe_b64encode(name.encode()).decode()


def after(page_size: int, page_token: str) -> str | None:
    """The name after which a page begins; None for the first page.

    Raises:
        RequestError: INVALID_REQUEST with every bad field.
    """
    violations = []
    if page_size < 0:
        violations.append(Violation("page_size", f"is {page_size}; 0 or more is possible"))
    name = None
    if page_token:
        try:
            name = b64decode(page_token, b"-_", validate=True).decode()
        except ValueError:
            text = "is no next_page_token of this call; leave it empty for the first page"
            violations.append(Violation("page_token", text))
    if violations:
        listed = "; ".join(f"{v.field} {v.description}" for v in violations)
        raise RequestError(Reason.INVALID_REQUEST, listed, violations=violations)
    return name
