"""Follows the service for every open page of this process, with one subscription.

Browsers learn over server-sent events that something has changed, and then ask for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Final

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from wuliart_client import (
    Adapter,
    AdapterEventKind,
    AsyncClient,
    ModelDescription,
    WuliArtError,
)
from wuliart_contract.limits import DEFAULT_STEPS, MIN_STEPS

NEWS: Final = "/adapters/news"
"""Path of the stream of server-sent events."""

_RETRY_SECONDS: Final = 0.5
"""Time between two attempts to reach a server that does not answer."""

_INFO_SECONDS: Final = 2.0
"""Time from one answer to GetServerInfo to the next call. Only this call says whether the LoRA
manager runs. It limits no answer, which a slow path may take longer to bring."""

_SETTLE_SECONDS: Final = 0.1
"""Changes within this time are one event: a folder may bring a thousand files at once."""


@dataclass(frozen=True, slots=True)
class ServiceState:
    """The service's state as far as it is known."""

    adapters: tuple[Adapter, ...] = ()
    """By name; empty while there is an `error`."""
    error: WuliArtError | None = None
    """Why adapters cannot be watched now."""
    has_manager: bool = True
    """False if the LoRA manager does not run; new files are then not noticed."""
    step_counts: range = range(MIN_STEPS, DEFAULT_STEPS + 1)
    """Numbers of steps that the server accepts; the last one is its default."""
    warnings: tuple[str, ...] = ()
    """The server's own warnings about its model."""
    description: ModelDescription | None = None
    """What the server's model knows, if it is a small one."""


class ServiceWatch:
    """Keeps `state` up to date while `following` is entered.

    Args:
        client: calls the service.
    """

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._changed = asyncio.Event()
        self.state = ServiceState()

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Follows the service until the context is left."""
        tasks = [asyncio.create_task(self._watch()), asyncio.create_task(self._poll_info())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            for task in tasks:
                with suppress(asyncio.CancelledError):
                    await task

    async def changes(self) -> AsyncIterator[ServiceState]:
        """Yields the state, and again after each change; changes in quick succession are one."""
        while True:
            changed = self._changed
            yield self.state
            await changed.wait()
            await asyncio.sleep(_SETTLE_SECONDS)

    def router(self) -> APIRouter:
        """Returns the route of the server-sent events; an event says only that there is news."""
        routes = APIRouter()

        async def events() -> AsyncIterator[str]:
            yield "retry: 500\n\n"
            async for _ in self.changes():
                yield "data: changed\n\n"

        @routes.get(NEWS, include_in_schema=False)
        async def news() -> StreamingResponse:
            return StreamingResponse(
                events(), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
            )

        return routes

    async def _watch(self) -> None:
        """Follows the adapters; starts again after each error."""
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
                        self._update(replace(self.state, adapters=adapters, error=None))
            except WuliArtError as error:
                self._update(replace(self.state, adapters=(), error=error))
            await asyncio.sleep(_RETRY_SECONDS)

    async def _poll_info(self) -> None:
        """Follows what GetServerInfo says."""
        while True:
            try:
                info = await self._client.info()
            except WuliArtError:
                self._update(replace(self.state, has_manager=True))
            else:
                self._update(
                    replace(
                        self.state,
                        has_manager=info.lora_manager_connected,
                        step_counts=range(info.limits.min_steps, info.limits.max_steps + 1),
                        warnings=info.model.warnings,
                        description=info.model.description,
                    )
                )
            await asyncio.sleep(_INFO_SECONDS)

    def _update(self, state: ServiceState) -> None:
        if _visible(state) != _visible(self.state):
            self._changed.set()
            self._changed = asyncio.Event()
        self.state = state


def _visible(state: ServiceState) -> object:
    """Returns the part of a state that a page shows, to compare two states."""
    # Two exceptions are never equal, but the same error is no news.
    error = state.error and (state.error.reason, type(state.error))
    model = state.step_counts, state.warnings, state.description
    return state.adapters, state.has_manager, model, error
