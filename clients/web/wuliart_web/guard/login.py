"""The form that asks a visitor for a token, and the cookie that keeps it.

The inference server checks the token of each call once more.
"""

from __future__ import annotations

import html
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, RedirectResponse, Response

from wuliart_process.tokens import TokenFile
from wuliart_web.clients import COOKIE
from wuliart_web.guard.response_headers import LOGIN_POLICY
from wuliart_web.texts import texts_for

_COOKIE_SECONDS: Final = 30 * 24 * 3600
_FORM: Final = Path(__file__).parents[1] / "assets" / "login.html"


def log_in(headers: Headers, body: bytes, tokens: TokenFile, *, secure: bool) -> Response:
    """Answers a submitted form: sets the cookie and redirects to the page, or shows it again.

    Args:
        headers: of the request; its language is the form's.
        body: of the request, urlencoded.
        tokens: the valid tokens.
        secure: True over TLS; browsers then send the cookie over TLS only.
    """
    token = parse_qs(body.decode("utf-8", "replace")).get("token", [""])[0].strip()
    if not token or tokens.name_of(token) is None:
        return form(headers, 401, wrong=True)
    response = RedirectResponse("/", 303)
    response.set_cookie(
        COOKIE,
        token,
        max_age=_COOKIE_SECONDS,
        httponly=True,
        samesite="strict",
        secure=secure,
    )
    return response


def form(headers: Headers, status: int, *, wrong: bool = False) -> Response:
    """Returns the form that asks for a token, in the visitor's language.

    Args:
        headers: of the request.
        status: HTTP status code of the response.
        wrong: True after an invalid token.
    """
    texts = texts_for(headers.get("accept-language", ""))
    page = _FORM.read_text(encoding="utf-8")
    for key in ("login_lang", "login_hint", "login_token", "login_enter"):
        page = page.replace("{" + key + "}", html.escape(texts[key]))
    page = page.replace("{login_wrong}", html.escape(texts["login_wrong"]) if wrong else "")
    own = {"Cache-Control": "no-store", "Content-Security-Policy": LOGIN_POLICY}
    return HTMLResponse(page, status, own)
