"""An allow-list of methods and paths, independent of what Gradio mounts.

Gradio mounts some ninety routes (uploads, file serving, a proxy, an API, an editor). The page uses
the few below, found by recording a browser; any other request gets 404 before Gradio sees it.
"""

from __future__ import annotations

import re
from typing import Final

from starlette.datastructures import Headers
from starlette.types import Scope

from wuliart_web.guard.error import API_PREFIX, GuardError
from wuliart_web.guard.gradio_calls import CANCEL, JOIN, RESET, SESSION

PAGE: Final = "/"
ALIVE: Final = "/healthz"
LOGIN: Final = "/login"
VIEWER: Final = "/viewer.js"

STREAM: Final = "/gradio_api/queue/data"
HEARTBEAT: Final = re.compile(rf"/gradio_api/heartbeat/({SESSION})")
_SESSION_QUERY: Final = re.compile(rf"session_hash=({SESSION})")

_READ: Final = ("GET", "HEAD")
_OWN_METHODS: Final = {ALIVE: _READ, LOGIN: ("GET", "HEAD", "POST")}
_FILE: Final = r"(?!\.)[\w .@+-]{1,200}"

ALLOWED: Final[tuple[tuple[tuple[str, ...], re.Pattern[str]], ...]] = (
    # The page and its files, by Gradio.
    (_READ, re.compile(r"/|/theme\.css|/favicon\.ico|/manifest\.json|/viewer\.js")),
    (_READ, re.compile(rf"/assets/{_FILE}")),
    (_READ, re.compile(rf"/static/(?:{_FILE}/)*{_FILE}")),
    # The page's calls and their results, by Gradio.
    (("POST",), re.compile("|".join(map(re.escape, (JOIN, CANCEL, RESET))))),
    (("GET",), re.compile(rf"{re.escape(STREAM)}|{HEARTBEAT.pattern}")),
    # This package's own.
    (("GET",), re.compile(r"/adapters/news")),
    (_READ, re.compile(r"/images/[\w-]+/[\w.]+")),
    (_READ, re.compile(r"/thumbnails/[0-9a-f]{64}")),
)
"""Methods and whole paths; the OpenAI API itself answers every path below `API_PREFIX`."""


def is_allowed(method: str, path: str) -> bool:
    """Returns True if the method and path are on the allow-list."""
    return path.startswith(API_PREFIX) or any(
        method in methods and pattern.fullmatch(path) for methods, pattern in ALLOWED
    )


def check_route(scope: Scope) -> None:
    """Checks that a request is on the allow-list.

    Raises:
        GuardError: 404; the message says where the page and the API are.
    """
    if not is_allowed(scope["method"], scope["path"]):
        raise GuardError(
            404,
            "There is nothing at this address: the page is at /, the images API below /v1/.",
            "unknown_url",
        )


def check_own(method: str, path: str) -> None:
    """Checks the method of a request for a path that the guard answers itself.

    Raises:
        GuardError: 405, the method is not allowed.
    """
    if (methods := _OWN_METHODS.get(path)) and method not in methods:
        raise GuardError(405, "Only GET and HEAD are allowed here.", "method_not_allowed")


def session_of(scope: Scope) -> str | None:
    """Returns the session whose stream or heartbeat a request reads; None for other requests.

    Raises:
        GuardError: 422, the query of a stream is not the name of a session.
    """
    if found := HEARTBEAT.fullmatch(scope["path"]):
        return found[1]
    if scope["path"] != STREAM:
        return None
    query = _SESSION_QUERY.fullmatch(scope["query_string"].decode("latin-1"))
    if query is None:
        raise GuardError(422, "The query must be session_hash and one session's name.", "bad_call")
    return query[1]


def check_origin(headers: Headers, method: str) -> None:
    """Checks that no page of another site caused the request.

    Browsers set `Sec-Fetch-Site`, which no page can forge; older ones send `Origin` with requests
    that change something. Other programs send neither and pass.

    Raises:
        GuardError: 403, the request comes from a page of another site.
    """
    site, mode = headers.get("sec-fetch-site", "none"), headers.get("sec-fetch-mode")
    is_link = mode == "navigate" and method in _READ
    origin = headers.get("origin")
    foreign = origin is not None and not _is_own(origin, headers)
    if foreign or (site not in ("none", "same-origin") and not is_link):
        raise GuardError(403, "A page of another site may not send this request.", "forbidden")


def _is_own(origin: str, headers: Headers) -> bool:
    scheme, separator, host = origin.partition("://")
    return bool(separator) and scheme in ("http", "https") and host == headers.get("host", "")
