"""Identity of clients, and the limits that apply to each: open calls, images, images per minute."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

from inference_server.errors import RequestError
from inference_server.service.revocation import Revocation
from wuliart_contract.status import Reason
from wuliart_process.tokens import TokenFile, bearer

CLIENT: Final[ContextVar[str]] = ContextVar("client", default="")
"""Identity of the client whose call the running task handles."""

Metadata = Sequence[tuple[str, str | bytes]]

WINDOW_SECONDS: Final = 60.0


class Clients:
    """Identifies clients: by the name of their token or, if none is required, by connection.

    Args:
        tokens: the tokens that clients may present; None: no token is required.
    """

    def __init__(self, tokens: TokenFile | None) -> None:
        self._tokens = tokens
        self._revocation = None if tokens is None else Revocation(tokens.name_of)

    @property
    def requires_token(self) -> bool:
        """True if calls without a valid token are rejected."""
        return self._tokens is not None

    @asynccontextmanager
    async def identified(self, metadata: Metadata, peer: str) -> AsyncIterator[str]:
        """Yields the client's identity; cancels the body when the client's token is revoked.

        Args:
            metadata: of the call.
            peer: address of the connection's other end, as gRPC writes it.

        Raises:
            RequestError: UNAUTHENTICATED.
        """
        if self._tokens is None or self._revocation is None:
            yield peer
            return
        headers = [value for key, value in metadata if key == "authorization"]
        token = bearer(headers[0]) if len(headers) == 1 and isinstance(headers[0], str) else ""
        name = self._tokens.name_of(token) if token else None
        if name is None:
            raise RequestError(
                Reason.UNAUTHENTICATED,
                "this token is not valid here; ask the server's operator for one"
                if token
                else "this server requires a token: give one (wuliart --token-file, WULIART_TOKEN, "
                'or the header "authorization: Bearer ...")',
            )
        async with self._revocation.watched(token, name):
            yield name


class ConnectionLimits:
    """Limits the calls without a token that one connection has open.

    Args:
        open_calls: most calls per connection.
    """

    def __init__(self, open_calls: int) -> None:
        self._limit = open_calls
        self._open: Counter[str] = Counter()

    @contextmanager
    def open_call(self, peer: str) -> Iterator[None]:
        """Counts one call of the connection while the body runs.

        Raises:
            RequestError: RATE_LIMITED.
        """
        if self._open[peer] >= self._limit:
            raise RequestError(
                Reason.RATE_LIMITED,
                f"{self._limit} calls without a token are open on this connection, which is the "
                "limit; end one first",
                retry_after=1.0,
            )
        self._open[peer] += 1
        try:
            yield
        finally:
            self._open[peer] -= 1
            if not self._open[peer]:
                del self._open[peer]


@dataclass(slots=True)
class _Use:
    """The recent use of the service by one client."""

    images: int = 0
    """Images that wait or run."""
    accepted_at: deque[float] = field(default_factory=deque)
    """Times of the images that were accepted in the last minute."""


class ClientLimits:
    """Limits the images of one client, and how many of them it may request in a minute.

    Args:
        images: most images of a client that wait or run; None: no limit but the queue's.
        per_minute: most images per minute; None: no limit.
        clock: returns monotonic seconds.
    """

    def __init__(
        self, images: int | None, per_minute: int | None, clock: Callable[[], float]
    ) -> None:
        self._images = images
        self._per_minute = per_minute
        self._clock = clock
        self._uses: dict[str, _Use] = {}

    @contextmanager
    def image(self, client: str) -> Iterator[None]:
        """Counts one image of the client while the body runs.

        Raises:
            RequestError: RATE_LIMITED.
        """
        use = self._uses.setdefault(client, _Use())
        self._forget_old(use)
        try:
            self._check(use)
            use.images += 1
            if self._per_minute is not None:
                use.accepted_at.append(self._clock())
            try:
                yield
            finally:
                use.images -= 1
                self._forget_old(use)
        finally:
            # Clients that have left cost no memory, however many there were.
            if not use.images and not use.accepted_at:
                self._uses.pop(client, None)

    def _check(self, use: _Use) -> None:
        if self._images is not None and use.images >= self._images:
            raise RequestError(
                Reason.RATE_LIMITED,
                f"{use.images} images of yours are waiting or running, which is this server's "
                "limit for one client; wait for one of them",
                retry_after=1.0,
            )
        if self._per_minute is not None and len(use.accepted_at) >= self._per_minute:
            wait = max(0.1, use.accepted_at[0] + WINDOW_SECONDS - self._clock())
            raise RequestError(
                Reason.RATE_LIMITED,
                f"{self._per_minute} images per minute are this server's limit for one client; "
                f"try again in {wait:.0f} s",
                retry_after=wait,
            )

    def _forget_old(self, use: _Use) -> None:
        oldest = self._clock() - WINDOW_SECONDS
        while use.accepted_at and use.accepted_at[0] <= oldest:
            use.accepted_at.popleft()
