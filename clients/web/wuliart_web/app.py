"""Assembles the web application: the page and the OpenAI-compatible API over the gRPC service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

import gradio as gr
from fastapi import FastAPI, Response

from wuliart_client import AsyncClient
from wuliart_process.tokens import TokenFile
from wuliart_web import clients
from wuliart_web.guard.app import Guard
from wuliart_web.guard.gradio_calls import GradioCalls
from wuliart_web.guard.routes import VIEWER
from wuliart_web.guard.sessions import Sessions
from wuliart_web.image_store import ImageStore
from wuliart_web.openai import routes as openai_routes
from wuliart_web.page.first_paint import serving_current
from wuliart_web.page.layout import ASSETS, build
from wuliart_web.page.theme import THEME
from wuliart_web.service_watch import ServiceWatch
from wuliart_web.texts import I18N
from wuliart_web.thumbnails import Thumbnails


def create_app(
    client: AsyncClient, tokens: TokenFile | None = None, allowed_hosts: Collection[str] = ()
) -> Guard:
    """Builds the page and the API over one client, which is closed with the application.

    Args:
        client: calls the service.
        tokens: every visitor needs one of them, and the service is called with it; None requires
            none.
        allowed_hosts: names by which visitors may address the page; see `guard.app.Guard`.
    """
    service, images = ServiceWatch(client), ImageStore()
    client_for = clients.per_request(client, tokens)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with client, service.following(), serving_current(page, service):
            yield

    app = FastAPI(
        title="WuliArt Turbo", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None
    )
    page = build(client_for, images, service)
    sessions = Sessions(page)
    viewer_script = (ASSETS / "viewer.js").read_bytes()

    @app.api_route(VIEWER, methods=["GET", "HEAD"])
    async def viewer() -> Response:
        # A file of its own: Gradio would insert an inline script where no policy can name it.
        return Response(viewer_script, media_type="text/javascript")

    thumbnails = Thumbnails(client, service)
    for router in (
        openai_routes.router(client_for), images.router(), service.router(), thumbnails.router()
    ):  # fmt: skip
        app.include_router(router)
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        theme=THEME,
        favicon_path=str(ASSETS / "icon.svg"),
        i18n=I18N,
        css_paths=ASSETS / "page.css",
        head=f'<script src="{VIEWER}"></script>',
        footer_links=[],
        # Otherwise Gradio keeps images in the browser and offers to send them to a bucket.
        run_history=False,
        ssr_mode=False,
    )
    # A second check behind `gradio_calls`: Gradio checks the paths of files only in an app that it
    # has launched itself, which a mounted app never is.
    page.has_launched = True
    calls = GradioCalls(page, lambda: service.state.step_counts)
    return Guard(app, tokens, allowed_hosts, calls, sessions)
