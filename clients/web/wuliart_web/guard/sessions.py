"""Limits and owners of the visitors' sessions with Gradio's queue.

Gradio keeps results that a session does not fetch for ever, for up to 2,000 sessions; beyond that
its queue stops for good. The limits here are well below. When they are reached, the session that
has been idle longest and is not being read is dropped. A session that was opened with a token can
only be read with that token.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import gradio as gr

from wuliart_web.guard.error import GuardError

MAX_SESSIONS: Final = 512
MAX_CALLS: Final = 512
"""Waiting and running calls of all sessions; each image in the making is one call."""
MAX_SESSION_CALLS: Final = 16
"""Waiting and running calls of one session; a page in use has at most four."""

_ESTIMATE_SECONDS: Final = 3600.0
"""Time between two of Gradio's estimates of the waiting time. The page does not show them, and each
one goes to every waiting call."""

HANDOVER_SECONDS: Final = 5.0
"""Time for a session's stream to end after its browser has opened the next one."""


@dataclass(slots=True)
class _Session:
    owner: str
    reader: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while the session's stream is open."""

    @property
    def read(self) -> bool:
        return self.reader.locked()


class Sessions:
    """The sessions of one page.

    Args:
        page: the built page, not yet mounted; its queue is configured here.
    """

    def __init__(self, page: gr.Blocks) -> None:
        page.queue(status_update_rate=_ESTIMATE_SECONDS, api_open=False)
        page.state_session_capacity = MAX_SESSIONS
        # Gradio's own limit must not make a call wait: calls are limited here.
        page._queue.max_thread_count = MAX_CALLS
        self._page = page
        self._sessions: OrderedDict[str, _Session] = OrderedDict()

    @property
    def is_working(self) -> bool:
        """False if Gradio's queue has stopped; only a restart helps."""
        return not self._page._queue.stopped

    async def admit(self, name: str, owner: str) -> None:
        """Admits a new call of a session, and the session if it is new.

        Args:
            name: of the session, chosen by the browser.
            owner: the call's token; empty on a page without tokens.

        Raises:
            GuardError: 404 if the session belongs to another visitor, 429 if this session or all
                sessions together have too many calls.
        """
        queue = self._page._queue
        session = self.check(name, owner)
        if len(queue.pending_event_ids_session.get(name, ())) >= MAX_SESSION_CALLS:
            raise _too_many("This page has too many calls waiting.")
        if len(queue.event_ids_to_events) >= MAX_CALLS:
            raise _too_many("The page has too many calls waiting from all visitors.")
        if session is None:
            while len(self._sessions) >= MAX_SESSIONS:
                await self._drop_one()
            session = self._sessions[name] = _Session(owner)
        self._sessions.move_to_end(name)

    def check(self, name: str, owner: str) -> _Session | None:
        """Returns a session, None if it is unknown.

        Raises:
            GuardError: 404, the session belongs to another visitor.
        """
        session = self._sessions.get(name)
        if session is not None and session.owner != owner:
            raise GuardError(404, "There is no such session: reload the page.", "no_session")
        return session

    @asynccontextmanager
    async def reading(self, name: str, owner: str) -> AsyncIterator[None]:
        """Holds a session's only stream while the context is entered.

        Gradio's client opens the next stream as soon as the previous one announces its end, which
        is before its response is complete here, so the next stream waits for that.

        Raises:
            GuardError: 404 as `check`; 409 if another stream of the session stays open.
        """
        session = self.check(name, owner)
        if session is None:
            # Gradio reports that in the stream, and the page starts a new session.
            yield
            return
        try:
            async with asyncio.timeout(HANDOVER_SECONDS):
                await session.reader.acquire()
        except TimeoutError:
            message = "This session is being read already."
            raise GuardError(409, message, "session_in_use") from None
        try:
            yield
        finally:
            session.reader.release()

    async def _drop_one(self) -> None:
        """Drops the session that has been idle longest.

        Raises:
            GuardError: 429, all sessions are being read.
        """
        name = next((name for name, session in self._sessions.items() if not session.read), None)
        if name is None:
            raise _too_many("Too many pages are open on this server.")
        del self._sessions[name]
        queue = self._page._queue
        await queue.clean_events(session_hash=name)
        queue.pending_event_ids_session.pop(name, None)
        queue.pending_messages_per_session.pop(name, None)


def _too_many(what: str) -> GuardError:
    message = f"{what} Wait a moment, then try again."
    return GuardError(429, message, "too_many_calls", {"Retry-After": "2"})
