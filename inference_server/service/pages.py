"""Pages of the list of adapters: the size of one message, and page tokens.

A token holds the name of the last adapter of its page, so that adapters that come or go between two
pages make no other adapter appear on both or on neither.
"""

from __future__ import annotations

from base64 import b64decode, urlsafe_b64encode
from collections.abc import Iterable, Iterator
from typing import Final

from inference_server.errors import RequestError, Violation
from wuliart.v1.adapter_pb2 import Adapter
from wuliart_contract.status import Reason

PAGE_BYTES: Final = 1 << 20
"""Most bytes of adapters in one message: a quarter of what gRPC clients accept by default. The
longest adapter has 34 KiB, a typical one 250 bytes."""


def split(adapters: Iterable[Adapter], page_size: int = 0) -> Iterator[list[Adapter]]:
    """Yields the adapters in non-empty parts of up to PAGE_BYTES.

    Args:
        adapters: to split.
        page_size: most adapters of a part; 0 for no limit.
    """
    part: list[Adapter] = []
    taken = 0
    for adapter in adapters:
        size = adapter.ByteSize()
        if part and (taken + size > PAGE_BYTES or len(part) == page_size):
            yield part
            part, taken = [], 0
        part.append(adapter)
        taken += size
    if part:
        yield part


def token(name: str) -> str:
    """Returns the token of the page that begins after the adapter of this name."""
    return urlsafe_b64encode(name.encode()).decode()


def start_of(page_size: int, page_token: str) -> str | None:
    """Checks a request for a page.

    Returns:
        The name after which the page begins; None for the first page.

    Raises:
        RequestError: INVALID_REQUEST with every violation.
    """
    violations = []
    if page_size < 0:
        violations.append(Violation("page_size", f"is {page_size}; it must be 0 or more"))
    name = None
    if page_token:
        try:
            name = b64decode(page_token, b"-_", validate=True).decode()
        except ValueError:
            text = "is not a next_page_token; leave it empty for the first page"
            violations.append(Violation("page_token", text))
    if violations:
        listed = "; ".join(f"{v.field} {v.description}" for v in violations)
        raise RequestError(Reason.INVALID_REQUEST, listed, violations=violations)
    return name
