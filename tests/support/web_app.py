"""Runs the web application of an in-process server on a real port, for tests."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager

import httpx
import uvicorn
from openai import AsyncOpenAI

from tests.support.fakes import until
from tests.support.harness import name_model as name_model
from wuliart_client import AsyncClient
from wuliart_process.bounded_listener import BoundedListener
from wuliart_process.tokens import TokenFile
from wuliart_web.app import create_app
from wuliart_web.serving import configuration


class _Uvicorn(uvicorn.Server):
    """Leaves the test's signal handlers alone."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def open_web(
    target: str, tokens: TokenFile | None = None, allowed_hosts: Collection[str] = ()
) -> AsyncIterator[int]:
    """Serves the application over the gRPC server at `target`; yields its port."""
    # As `wuliart-web` serves it; its lifespan closes the client.
    server = _Uvicorn(configuration(create_app(AsyncClient(target), tokens, allowed_hosts)))
    with BoundedListener("127.0.0.1", 0, 1000) as listener:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        await until(lambda: server.started)
        try:
            yield listener.port
        finally:
            server.should_exit = True
            await serving


@asynccontextmanager
async def page_client(
    target: str, tokens: TokenFile | None = None, allowed_hosts: Collection[str] = ()
) -> AsyncIterator[httpx.AsyncClient]:
    """Yields an HTTP client of the application over the gRPC server at `target`."""
    async with (
        open_web(target, tokens, allowed_hosts) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as http,
    ):
        yield http


@asynccontextmanager
async def open_openai(
    target: str, tokens: TokenFile | None = None, key: str = "x"
) -> AsyncIterator[AsyncOpenAI]:
    """Yields OpenAI's own client of the API over the gRPC server at `target`."""
    async with (
        open_web(target, tokens) as port,
        AsyncOpenAI(
            base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=0, timeout=20
        ) as openai,
    ):
        yield openai
