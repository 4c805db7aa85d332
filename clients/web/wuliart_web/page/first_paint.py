"""Keeps what depends on the service in the page as it is first served.

Sent as updates, it would arrive after the first paint and move the controls below it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import gradio as gr

from wuliart_web.page.about import ABOUT, about
from wuliart_web.page.choices import style_pictures
from wuliart_web.page.styles import STYLES
from wuliart_web.service_watch import ServiceWatch


@asynccontextmanager
async def serving_current(page: gr.Blocks, service: ServiceWatch) -> AsyncIterator[None]:
    """Follows the service while the context is entered, and puts what it says into the page."""

    async def follow() -> None:
        async for state in service.changes():
            values = {ABOUT: about(state.description), STYLES: style_pictures(state)}
            for component in page.config["components"]:
                if (name := component["props"].get("elem_id")) in values:
                    component["props"]["value"] = values[name]

    task = asyncio.create_task(follow())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
