"""The page and the doors that other apps know, as one web application over the gRPC service.

Owns the life of the one client; what a request means is the routers' business.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

import gradio as gr
from fastapi import FastAPI, Response

from wuliart_client import AsyncClient
from wuliart_process.tokens import TokenFile
from wuliart_web import login, openai_images, page
from wuliart_web.adapters import Adapters
from wuliart_web.gradio_calls import GradioCalls
from wuliart_web.guard import Guard
from wuliart_web.images import Images
from wuliart_web.routes import VIEWER
from wuliart_web.sessions import Sessions
from wuliart_web.words import I18N


def create_app(
    client: AsyncClient, tokens: TokenFile | None = None, allowed_hosts: Collection[str] = ()
) -> Guard:
    """The page and all doors over one client, which is closed with the app.

    Args:
        client: asks the service.
        tokens: every visitor needs one of them, with which the service is asked; None requires
            none.
        allowed_hosts: names by which visitors may address the page; see `guard.Guard`.
    """
    adapters, images = Adapters(client), Images()
    client_for = login.clients(client, tokens)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with client, adapters.following():
            yield

    app = FastAPI(
        title="WuliArt Turbo", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None
    )
    blocks = page.build(client_for, images, adapters)
    sessions = Sessions(blocks)
    viewer_script = (page.ASSETS / "viewer.js").read_bytes()

    @app.api_route(VIEWER, methods=["GET", "HEAD"])
    async def viewer() -> Response:
        # A file of its own: inline, Gradio would insert it where no policy can name it.
        return Response(viewer_script, media_type="text/javascript")

    for router in (openai_images.router(client_for), images.router(), adapters.router()):
        app.include_router(router)
    gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        theme=page.THEME,
        favicon_path=str(page.ASSETS / "icon.svg"),
        i18n=I18N,
        css_paths=page.ASSETS / "page.css",
        head=f'<script src="{VIEWER}"></script>',
        footer_links=[],
        # Gradio would keep what was generated in the browser and offer to send it to a bucket.
        run_history=False,
        ssr_mode=False,
    )
    # A second line behind `gradio_calls`: Gradio checks the paths of files only once it believes
    # that it has launched itself, which a mounted app never does.
    blocks.has_launched = True
    return Guard(
        app, tokens, allowed_hosts, GradioCalls(blocks, lambda: adapters.known.counts), sessions
    )
