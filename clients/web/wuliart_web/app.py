"""The page and the doors that other apps know, as one web application over the gRPC service.

Owns the life of the one client; what a request means is the routers' business.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import gradio as gr
from fastapi import FastAPI

from wuliart.contract.tokens import TokenFile
from wuliart_client import AsyncClient
from wuliart_web import guard, openai_images, page
from wuliart_web.pictures import Pictures
from wuliart_web.styles import Styles
from wuliart_web.words import I18N


def create_app(client: AsyncClient, tokens: TokenFile | None = None) -> FastAPI:
    """The page and all doors over one client, which is closed with the app.

    With `tokens` everybody needs one of them, and the service is asked with it.
    """
    styles, pictures = Styles(client), Pictures()
    client_for = guard.clients(client, tokens)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with client, styles.following():
            yield

    app = FastAPI(title="WuliArt Turbo", lifespan=lifespan)
    app.add_middleware(guard.Guard, tokens=tokens)
    for router in (openai_images.router(client_for), pictures.router(), styles.router()):
        app.include_router(router)
    script = (page.ASSETS / "viewer.js").read_text(encoding="utf-8")
    gr.mount_gradio_app(
        app,
        page.build(client_for, pictures, styles),
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
