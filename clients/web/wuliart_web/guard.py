"""Stands before the page and the doors: who has no token does not get in.

Owns the cookie, the page that asks for a token, and what strangers and foreign pages are answered.
Tokens are the contract's; the server looks at them once more.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Mapping
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from wuliart.contract.tokens import TokenFile, bearer
from wuliart_client import AsyncClient
from wuliart_web.openai_errors import DoorError
from wuliart_web.words import spoken

ClientFor = Callable[[Mapping[str, str]], AsyncClient]
"""Which client asks the service, by a request's headers."""

COOKIE: Final = "wuliart_token"
LOGIN: Final = "/login"
ALIVE: Final = "/healthz"
_DOOR: Final = "/v1/"
_SAFE: Final = ("GET", "HEAD", "OPTIONS")
_FORM_BYTES: Final = 4096
_COOKIE_SECONDS: Final = 30 * 24 * 3600
_PAGE: Final = Path(__file__).parent / "assets" / "login.html"


def token_of(headers: Mapping[str, str]) -> str:
    """What a request brings: an Authorization header's, else the cookie's; empty if neither."""
    if token := bearer(headers.get("authorization", "")):
        return token
    cookie = SimpleCookie()
    cookie.load(headers.get("cookie", ""))
    return cookie[COOKIE].value if COOKIE in cookie else ""


def clients(client: AsyncClient, tokens: TokenFile | None) -> ClientFor:
    """The client for a request: in the visitor's name where there are names."""

    def client_for(headers: Mapping[str, str]) -> AsyncClient:
        return client if tokens is None else client.with_token(token_of(headers))

    return client_for


class Guard:
    """Middleware before everything else.

    Args:
        app: what is guarded.
        tokens: who may come in; None: everybody.
    """

    def __init__(self, app: ASGIApp, tokens: TokenFile | None) -> None:
        self._app = app
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        answer = await self._answer(scope, receive)
        if answer is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> Response | None:
        """What is answered here; None if the request may go on."""
        headers, path = Headers(scope=scope), scope["path"]
        method = scope.get("method", "GET")
        if path == ALIVE:
            return Response(status_code=200)
        if method not in _SAFE and not _same_origin(headers):
            # Another page in the visitor's browser: it has the cookie, but not the wish.
            return _refused(path, 403, "a page of another address may not do this")
        if self._tokens is None:
            return None
        if path == LOGIN:
            return await self._log_in(Request(scope, receive))
        token = token_of(headers)
        if token and self._tokens.name_of(token) is not None:
            return None
        if path.startswith(_DOOR) or "text/html" not in headers.get("accept", ""):
            return _refused(path, 401, "give a token that is known here, as a bearer token")
        return _login_page(headers, 401)

    async def _log_in(self, request: Request) -> Response:
        if request.method != "POST":
            return _login_page(request.headers, 200)
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > _FORM_BYTES:
                return _login_page(request.headers, 413, wrong=True)
        token = parse_qs(body.decode("utf-8", "replace")).get("token", [""])[0].strip()
        assert self._tokens is not None
        if not token or self._tokens.name_of(token) is None:
            return _login_page(request.headers, 401, wrong=True)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(
            COOKIE,
            token,
            max_age=_COOKIE_SECONDS,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return answer


def _same_origin(headers: Headers) -> bool:
    """Whether a browser says that the request comes from this page; programs say nothing."""
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc == headers.get("host", "")


def _refused(path: str, status: int, text: str) -> Response:
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    if path.startswith(_DOOR):
        code = "invalid_api_key" if status == 401 else "forbidden"
        return JSONResponse(DoorError(status, text, code=code).body(), status, headers)
    return Response(json.dumps({"error": text}), status, headers, "application/json")


def _login_page(headers: Headers, status: int, *, wrong: bool = False) -> Response:
    said = spoken(headers.get("accept-language", ""))
    page = _PAGE.read_text(encoding="utf-8")
    for key in ("login_lang", "login_hint", "login_token", "login_enter"):
        page = page.replace("{" + key + "}", html.escape(said[key]))
    page = page.replace("{login_wrong}", html.escape(said["login_wrong"]) if wrong else "")
    return HTMLResponse(page, status, {"Cache-Control": "no-store"})
