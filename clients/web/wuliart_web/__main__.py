"""`wuliart-web`: serves the page and the doors that other apps know, over the gRPC service.

Owns the command line and the life of the one client; what a request means is the routers' business.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import gradio as gr
import uvicorn
from fastapi import FastAPI

from wuliart_client import AsyncClient
from wuliart_web import openai_images, page
from wuliart_web.pictures import Pictures
from wuliart_web.styles import Styles
from wuliart_web.words import I18N


def create_app(client: AsyncClient) -> FastAPI:
    """The page and all doors over one client, which is closed with the app."""
    styles, pictures = Styles(client), Pictures()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with client, styles.following():
            yield

    app = FastAPI(title="WuliArt Turbo", lifespan=lifespan)
    for router in (openai_images.router(client), pictures.router(), styles.router()):
        app.include_router(router)
    script = (page.ASSETS / "viewer.js").read_text(encoding="utf-8")
    gr.mount_gradio_app(
        app,
        page.build(client, pictures, styles),
        path="/",
        theme=page.THEME,
        favicon_path=str(page.ASSETS / "icon.svg"),
        i18n=I18N,
        css_paths=page.ASSETS / "page.css",
        head=f"<script>{script}</script>",
        footer_links=[],
        # Gradio would keep what was drawn in the browser and offer to send it to a bucket.
        run_history=False,
        ssr_mode=False,
    )
    return app


def main(arguments: list[str] | None = None) -> None:
    """Serves until it is interrupted."""
    parser = argparse.ArgumentParser(prog="wuliart-web", description="The page and its doors.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--server", help="default: $WULIART_TARGET, else local")
    options = parser.parse_args(arguments)
    client = AsyncClient(options.server) if options.server else AsyncClient()
    uvicorn.run(
        create_app(client),
        host=options.host,
        port=options.port,
        log_level="info",
        # A page keeps a stream open for as long as it is looked at.
        timeout_graceful_shutdown=2,
    )


if __name__ == "__main__":
    main()
