"""The visitors' sessions with Gradio's queue: how many, what each may have waiting, whose.

Gradio keeps what a session has not fetched for ever, for 2,000 sessions; beyond those its queue
stops for good. Here sessions and calls are bounded well below that, the oldest session that is not
being read gives way, and one that was begun with a token is read with that token alone.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import gradio as gr

from wuliart_web.guard_error import GuardError

MOST_SESSIONS: Final = 512
MOST_CALLS: Final = 512
"""Waiting and running, of all sessions; each that waits for an image is one."""
CALLS_OF_ONE: Final = 16
"""Of one session; a page that is worked with has at most four."""

_NEVER: Final = 3600.0
"""Seconds between two estimates of the waiting time, which the page does not show: each goes to
every call that waits."""


HANDOVER_SECONDS: Final = 5.0
"""Time for a session's stream to end once its browser has opened the next one."""


@dataclass(slots=True)
class _Session:
    owner: str
    reader: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while the session's stream is open."""

    @property
    def read(self) -> bool:
        return self.reader.locked()


class Sessions:
    """Bounds and owners of the sessions of one page.

    Args:
        page: the built page, before it is mounted; its queue's settings are set here.
    """

    def __init__(self, page: gr.Blocks) -> None:
        page.queue(status_update_rate=_NEVER, api_open=False)
        page.state_session_capacity = MOST_SESSIONS
        # No call waits for another's place: what bounds them is here.
        page._queue.max_thread_count = MOST_CALLS
        self._page = page
        self._known: OrderedDict[str, _Session] = OrderedDict()

    @property
    def works(self) -> bool:
        """False if Gradio's queue has ended; only a restart helps."""
        return not self._page._queue.stopped

    async def admit(self, name: str, owner: str) -> None:
        """Takes note of a session that asks for a call.

        Args:
            name: of the session; the browser has chosen it.
            owner: the token that the call came with; empty on a page without tokens.

        Raises:
            GuardError: 404 if the session is another visitor's, 429 if it has too many calls
                waiting, or all sessions together.
        """
        queue = self._page._queue
        session = self.check(name, owner)
        if len(queue.pending_event_ids_session.get(name, ())) >= CALLS_OF_ONE:
            raise _too_many("This page has asked for too much at once.")
        if len(queue.event_ids_to_events) >= MOST_CALLS:
            raise _too_many("Too many visitors wait.")
        if session is None:
            while len(self._known) >= MOST_SESSIONS:
                await self._drop_one()
            session = self._known[name] = _Session(owner)
        self._known.move_to_end(name)

    def check(self, name: str, owner: str) -> _Session | None:
        """Returns the session, None if it is not known.

        Raises:
            GuardError: 404, it is another visitor's.
        """
        session = self._known.get(name)
        if session is not None and session.owner != owner:
            raise GuardError(404, "There is no such session: load the page anew.", "no_session")
        return session

    @asynccontextmanager
    async def reading(self, name: str, owner: str) -> AsyncIterator[None]:
        """While a session's stream is open.

        Gradio's client opens the next stream as soon as the last one has said that it ends, which
        is before that one's response is complete here: the next one waits for it.

        Raises:
            GuardError: 404 as `check`; 409 if another stream of it stays open.
        """
        session = self.check(name, owner)
        if session is None:
            # Gradio says so in its stream, whereupon the page begins a new session.
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
        """Forgets the session that has been idle for longest.

        Raises:
            GuardError: 429, all of them are being read.
        """
        name = next((name for name, session in self._known.items() if not session.read), None)
        if name is None:
            raise _too_many("Too many pages are open.")
        del self._known[name]
        queue = self._page._queue
        await queue.clean_events(session_hash=name)
        queue.pending_event_ids_session.pop(name, None)
        queue.pending_messages_per_session.pop(name, None)


def _too_many(what: str) -> GuardError:
    message = f"{what} Wait a moment, then try again."
    return GuardError(429, message, "too_many_calls", {"Retry-After": "2"})
