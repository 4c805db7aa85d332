"""Which token a request brings, and the service's client that acts in that visitor's name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Final

from wuliart_client import AsyncClient
from wuliart_process.tokens import TokenFile, bearer

ClientFor = Callable[[Mapping[str, str]], AsyncClient]
"""Maps a request's headers to the client that calls the service in that visitor's name."""

COOKIE: Final = "wuliart_token"

_MAX_COOKIES: Final = 8
"""Cookies of our name that are looked at; each is compared with every token."""


def per_request(client: AsyncClient, tokens: TokenFile | None) -> ClientFor:
    """Returns a function that gives each request a client with its visitor's token.

    Args:
        client: calls the service; shared by all requests.
        tokens: the valid tokens; None if none is required, and `client` serves everyone.
    """

    def client_for(headers: Mapping[str, str]) -> AsyncClient:
        return client if tokens is None else client.with_token(known_token(headers, tokens) or "")

    return client_for


def known_token(headers: Mapping[str, str], tokens: TokenFile) -> str | None:
    """Returns the first valid token in a request's headers, None if there is none.

    An Authorization header decides alone. Cookies are split by hand: a malformed cookie that
    another application has set for the same host must not hide ours.
    """
    if given := bearer(headers.get("authorization", "")):
        return given if tokens.name_of(given) is not None else None
    cookies = islice(_cookies(headers.get("cookie", "")), _MAX_COOKIES)
    return next((token for token in cookies if tokens.name_of(token) is not None), None)


def _cookies(header: str) -> Iterator[str]:
    for part in header.split(";"):
        name, _, value = part.strip().partition("=")
        if name == COOKIE and value:
            yield value.strip('"')
