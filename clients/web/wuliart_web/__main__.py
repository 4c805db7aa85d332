"""`wuliart-web`: serves the page and the doors that other apps know, over the gRPC service.

Owns the command line and the life of the one client; what a request means is the routers' business.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import gradio as gr
import uvicorn
from fastapi import FastAPI

from wuliart.contract.exposure import reaches_strangers
from wuliart.contract.tokens import TokenFile, TokenFileError
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


def main(arguments: list[str] | None = None) -> None:
    """Serves until it is interrupted."""
    parser = argparse.ArgumentParser(prog="wuliart-web", description="The page and its doors.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--server", help="default: $WULIART_TARGET, else local")
    parser.add_argument(
        "--tokens",
        type=Path,
        metavar="FILE",
        help="visitors and apps need one of these tokens, as of wuliart-server --tokens",
    )
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate chain, PEM")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key, PEM")
    parser.add_argument(
        "--insecure",
        action="store_true",
        help="listen beyond this machine even without TLS and tokens",
    )
    options = parser.parse_args(arguments)
    if (options.tls_cert is None) != (options.tls_key is None):
        parser.error("--tls-cert and --tls-key belong together")
    lacking = options.tls_cert is None or options.tokens is None
    if lacking and reaches_strangers(f"{options.host}:{options.port}") and not options.insecure:
        parser.error(
            f"--host {options.host} can be reached from other machines: give --tls-cert, --tls-key "
            "and --tokens, listen on 127.0.0.1, or say --insecure if everybody may use it (or "
            "something before it sees to that)"
        )
    try:
        tokens = TokenFile(options.tokens) if options.tokens else None
    except TokenFileError as error:
        parser.error(f"--tokens: {error}")
    uvicorn.run(
        create_app(AsyncClient(options.server), tokens),
        host=options.host,
        port=options.port,
        ssl_certfile=options.tls_cert,
        ssl_keyfile=options.tls_key,
        log_level="info",
        # A page keeps a stream open for as long as it is looked at.
        timeout_graceful_shutdown=2,
    )


if __name__ == "__main__":
    main()
