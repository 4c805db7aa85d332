"""`wuliart-web`: serves the doors that other apps know, over the gRPC service.

Owns the command line and the life of the one client; what a request means is the routers' business.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI

from wuliart_client import AsyncClient
from wuliart_web import openai_images


def create_app(client: AsyncClient) -> FastAPI:
    """All doors over one client, which is closed with the app."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with client:
            yield

    app = FastAPI(title="WuliArt Turbo", lifespan=lifespan)
    app.include_router(openai_images.router(client))
    return app


def main(arguments: list[str] | None = None) -> None:
    """Serves until it is interrupted."""
    parser = argparse.ArgumentParser(prog="wuliart-web", description="OpenAI images door.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--server", help="default: $WULIART_TARGET, else local")
    options = parser.parse_args(arguments)
    client = AsyncClient(options.server) if options.server else AsyncClient()
    uvicorn.run(create_app(client), host=options.host, port=options.port, log_level="info")


if __name__ == "__main__":
    main()
