"""Which token a visitor brings, and the form that asks for one.

Tokens are the contract's `TokenFile`; the inference server checks them once more.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, RedirectResponse, Response

from wuliart_client import AsyncClient
from wuliart_process.tokens import TokenFile, bearer
from wuliart_web.answer_headers import LOGIN_POLICY
from wuliart_web.words import spoken

ClientFor = Callable[[Mapping[str, str]], AsyncClient]
"""Maps a request's headers to the client that asks the service in that visitor's name."""

COOKIE: Final = "wuliart_token"
_COOKIE_SECONDS: Final = 30 * 24 * 3600
_MOST_COOKIES: Final = 8
"""Of our name; each is compared with every token."""
_PAGE: Final = Path(__file__).parent / "assets" / "login.html"


def known_token(headers: Mapping[str, str], tokens: TokenFile) -> str | None:
    """The first token in a request's headers that `tokens` knows; None if there is none.

    An Authorization header decides alone. Cookies are split by hand, because one that another
    application has set for the same host, in whatever form, must not hide ours.
    """
    if given := bearer(headers.get("authorization", "")):
        return given if tokens.name_of(given) is not None else None
    cookies = islice(_cookies(headers.get("cookie", "")), _MOST_COOKIES)
    return next((token for token in cookies if tokens.name_of(token) is not None), None)


def _cookies(header: str) -> Iterator[str]:
    for part in header.split(";"):
        name, _, value = part.strip().partition("=")
        if name == COOKIE and value:
            yield value.strip('"')


def clients(client: AsyncClient, tokens: TokenFile | None) -> ClientFor:
    """The client for a request: with the visitor's token where tokens are required."""

    def client_for(headers: Mapping[str, str]) -> AsyncClient:
        return client if tokens is None else client.with_token(known_token(headers, tokens) or "")

    return client_for


def log_in(headers: Headers, body: bytes, tokens: TokenFile, *, secure: bool) -> Response:
    """Answers the form: a cookie and the way to the page, or the form again.

    Args:
        headers: of the request; its language is the form's.
        body: of the request, urlencoded.
        tokens: the tokens that are valid.
        secure: True over TLS; the cookie is then sent over TLS only.
    """
    token = parse_qs(body.decode("utf-8", "replace")).get("token", [""])[0].strip()
    if not token or tokens.name_of(token) is None:
        return form(headers, 401, wrong=True)
    answer = RedirectResponse("/", 303)
    answer.set_cookie(
        COOKIE,
        token,
        max_age=_COOKIE_SECONDS,
        httponly=True,
        samesite="strict",
        secure=secure,
    )
    return answer


def form(headers: Headers, status: int, *, wrong: bool = False) -> Response:
    """The form that asks for a token, in the visitor's language.

    Args:
        headers: of the request.
        status: HTTP status code of the answer.
        wrong: True after a token that is not valid.
    """
    said = spoken(headers.get("accept-language", ""))
    page = _PAGE.read_text(encoding="utf-8")
    for key in ("login_lang", "login_hint", "login_token", "login_enter"):
        page = page.replace("{" + key + "}", html.escape(said[key]))
    page = page.replace("{login_wrong}", html.escape(said["login_wrong"]) if wrong else "")
    own = {"Cache-Control": "no-store", "Content-Security-Policy": LOGIN_POLICY}
    return HTMLResponse(page, status, own)
