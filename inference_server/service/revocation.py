"""Ends open calls whose token has been revoked, including streams that are open for days."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from inference_server.errors import RequestError
from wuliart_contract.status import Reason

CHECK_SECONDS: Final = 0.5
"""Time between two checks of the tokens of open calls."""


class Revocation:
    """The open calls, by token.

    Args:
        name_of: returns the client's name for a token; None if the token is not valid now.
    """

    def __init__(self, name_of: Callable[[str], str | None]) -> None:
        self._name_of = name_of
        self._open: defaultdict[tuple[str, str], set[asyncio.Timeout]] = defaultdict(set)
        """By token and name, a timeout for each call; rescheduling it ends the call."""
        self._watching: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def watched(self, token: str, name: str) -> AsyncIterator[None]:
        """Cancels the body once the token no longer belongs to the name.

        Raises:
            RequestError: UNAUTHENTICATED, if the body was cancelled.
        """
        limit = asyncio.timeout(None)
        try:
            async with limit:
                self._open[token, name].add(limit)
                if self._watching is None:
                    self._watching = asyncio.create_task(self._watch())
                try:
                    yield
                finally:
                    self._forget(token, name, limit)
        except TimeoutError:
            if not limit.expired():
                raise
            raise RequestError(
                Reason.UNAUTHENTICATED,
                "the token of this call has been revoked; give one that is valid",
            ) from None

    async def _watch(self) -> None:
        """Checks every token for as long as a call is open."""
        while self._open:
            await asyncio.sleep(CHECK_SECONDS)
            for (token, name), limits in list(self._open.items()):
                if self._name_of(token) != name:
                    for limit in list(limits):
                        self._forget(token, name, limit)
                        limit.reschedule(asyncio.get_running_loop().time())
        self._watching = None

    def _forget(self, token: str, name: str, limit: asyncio.Timeout) -> None:
        limits = self._open.get((token, name), set())
        limits.discard(limit)
        if not limits:
            self._open.pop((token, name), None)
