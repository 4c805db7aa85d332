"""What adapters there are, for every page of this process: one subscription, told to many.

Owns the one watch of the service and the stream that tells browsers of a change. Knows nothing of
how a page shows them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Final

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from wuliart_client import Adapter, AdapterEventKind, AsyncClient, WuliArtError
from wuliart_contract.limits import DEFAULT_STEPS, MIN_STEPS

NEWS: Final = "/adapters/news"
_AGAIN: Final = 0.5
"""Seconds until a server that is gone is asked again."""
_ASK: Final = 2.0
"""Seconds from an answer to the next look at whether the LoRA manager runs, of which no event
tells. They limit no answer, which a slow path may take longer to bring."""
_SETTLE: Final = 0.1
"""Seconds within which changes are told together: a folder may bring a thousand at once."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known now.

    `adapters` by name; none while `failure` says why the server does not tell. `managed`: whether
    the LoRA manager runs, without which no file is noticed. `counts`: the numbers of steps that the
    server takes, the last one its default. `warnings`: its own, of what its images lack.
    """

    adapters: tuple[Adapter, ...] = ()
    failure: WuliArtError | None = None
    managed: bool = True
    counts: range = range(MIN_STEPS, DEFAULT_STEPS + 1)
    warnings: tuple[str, ...] = ()


class Adapters:
    """Follows the service's adapters for as long as `following` is entered."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._changed = asyncio.Event()
        self.known = Known()

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Watches until left."""
        both = [asyncio.create_task(self._watch()), asyncio.create_task(self._ask())]
        try:
            yield
        finally:
            for task in both:
                task.cancel()
            for task in both:
                with suppress(asyncio.CancelledError):
                    await task

    async def changes(self) -> AsyncIterator[Known]:
        """What is known now, and again whenever that changes; changes that come fast together."""
        while True:
            changed = self._changed
            yield self.known
            await changed.wait()
            await asyncio.sleep(_SETTLE)

    def router(self) -> APIRouter:
        """The stream of server-sent events; each says only that something has changed."""
        routes = APIRouter()

        async def told() -> AsyncIterator[str]:
            yield "retry: 500\n\n"
            async for _ in self.changes():
                yield "data: changed\n\n"

        @routes.get(NEWS, include_in_schema=False)
        async def news() -> StreamingResponse:
            return StreamingResponse(
                told(), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
            )

        return routes

    async def _watch(self) -> None:
        while True:
            try:
                async with self._client.watch() as events:
                    found: dict[str, Adapter] = {}
                    async for event in events:
                        if event.kind is AdapterEventKind.SNAPSHOT:
                            found.clear()
                        for adapter in event.adapters:
                            if event.kind is AdapterEventKind.REMOVED:
                                found.pop(adapter.name, None)
                            else:
                                found[adapter.name] = adapter
                        adapters = tuple(found[name] for name in sorted(found))
                        self._tell(replace(self.known, adapters=adapters, failure=None))
            except WuliArtError as failure:
                self._tell(replace(self.known, adapters=(), failure=failure))
            await asyncio.sleep(_AGAIN)

    async def _ask(self) -> None:
        while True:
            try:
                info = await self._client.info()
            except WuliArtError:
                self._tell(replace(self.known, managed=True))
            else:
                self._tell(
                    replace(
                        self.known,
                        managed=info.lora_manager_connected,
                        counts=range(info.limits.min_steps, info.limits.max_steps + 1),
                        warnings=info.model.warnings,
                    )
                )
            await asyncio.sleep(_ASK)

    def _tell(self, known: Known) -> None:
        if _shown(known) != _shown(self.known):
            self._changed.set()
            self._changed = asyncio.Event()
        self.known = known


def _shown(known: Known) -> object:
    # Two failures are never equal, but the same words need not be said twice.
    failure = known.failure
    server = known.managed, known.counts, known.warnings
    return known.adapters, server, failure and (failure.reason, type(failure))
