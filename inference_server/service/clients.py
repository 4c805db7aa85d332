"""Which client a call comes from, and how much one client may ask for.

Owns names of clients, the limits of each, and the time windows they are counted in. Knows nothing
of what is asked for; the clock is handed in.
"""

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
"""Name of the client whose call is being handled."""

Metadata = Sequence[tuple[str, str | bytes]]

WINDOW_SECONDS: Final = 60.0


class Clients:
    """Tells clients apart: by their token's name or, where no tokens are required, by connection.

    Args:
        tokens: None: every client may call.
    """

    def __init__(self, tokens: TokenFile | None) -> None:
        self._tokens = tokens
        self._revocation = None if tokens is None else Revocation(tokens.name_of)

    @property
    def strangers(self) -> bool:
        """True if clients without a token are refused."""
        return self._tokens is not None

    @asynccontextmanager
    async def identified(self, metadata: Metadata, peer: str) -> AsyncIterator[str]:
        """The client's name, for as long as its token is valid; then cancels what runs inside.

        Args:
            metadata: of the call.
            peer: of the connection, as gRPC names it.

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
                "this token is not known here; ask whoever runs the server for one"
                if token
                else "this server asks for a token: give one (wuliart --token-file, WULIART_TOKEN, "
                'or the header "authorization: Bearer ...")',
            )
        async with self._revocation.watched(token, name):
            yield name


class ConnectionLimits:
    """How many calls without a token one connection may have open at once.

    Args:
        at_once: more are refused.
    """

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._open: Counter[str] = Counter()

    @contextmanager
    def one(self, peer: str) -> Iterator[None]:
        """One call more, as long as it lasts.

        Raises:
            RequestError: RATE_LIMITED.
        """
        if self._open[peer] >= self._at_once:
            raise RequestError(
                Reason.RATE_LIMITED,
                f"{self._at_once} calls without a token are open on this connection, which is as "
                "many as there may be; end one first",
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
    """What one client has asked for."""

    running: int = 0
    begun: deque[float] = field(default_factory=deque)
    """When the images of the last minute were asked for."""


class ClientLimits:
    """How many images one client may have under way, and ask for in a minute.

    Args:
        at_once: waiting ones included; None: as many as there is room for.
        per_minute: None: as many as can be generated.
        clock: monotonic seconds.
    """

    def __init__(
        self, at_once: int | None, per_minute: int | None, clock: Callable[[], float]
    ) -> None:
        self._at_once = at_once
        self._per_minute = per_minute
        self._clock = clock
        self._uses: dict[str, _Use] = {}

    @contextmanager
    def drawing(self, client: str) -> Iterator[None]:
        """As long as an image of the client's is under way.

        Raises:
            RequestError: RATE_LIMITED.
        """
        use = self._uses.setdefault(client, _Use())
        self._forget_old(use)
        try:
            self._check(use)
            use.running += 1
            if self._per_minute is not None:
                use.begun.append(self._clock())
            try:
                yield
            finally:
                use.running -= 1
                self._forget_old(use)
        finally:
            # Whoever asks for nothing costs no memory, however many there were.
            if not use.running and not use.begun:
                self._uses.pop(client, None)

    def _check(self, use: _Use) -> None:
        if self._at_once is not None and use.running >= self._at_once:
            raise RequestError(
                Reason.RATE_LIMITED,
                f"{use.running} images of yours are under way, which is as many as this server "
                "generates for one client at once; wait for one of them",
                retry_after=1.0,
            )
        if self._per_minute is not None and len(use.begun) >= self._per_minute:
            wait = max(0.1, use.begun[0] + WINDOW_SECONDS - self._clock())
            raise RequestError(
                Reason.RATE_LIMITED,
                f"{self._per_minute} images in a minute are as many as one client may ask for; "
                f"ask again in {wait:.0f} s",
                retry_after=wait,
            )

    def _forget_old(self, use: _Use) -> None:
        oldest = self._clock() - WINDOW_SECONDS
        while use.begun and use.begun[0] <= oldest:
            use.begun.popleft()
