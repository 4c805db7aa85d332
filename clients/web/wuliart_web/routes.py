"""Which requests exist: an allow-list of methods and paths, independent of what Gradio mounts.

Gradio brings some ninety routes (uploads, file serving, a proxy, an API, an editor). The page uses
the few below, found by recording a browser; everything else is answered 404 before Gradio sees it.
"""

from __future__ import annotations

import re
from typing import Final

from starlette.datastructures import Headers
from starlette.types import Scope

from wuliart_web.gradio_calls import CANCEL, JOIN, RESET, SESSION
from wuliart_web.guard_error import DOOR, GuardError

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
    # The page and its files.
    (_READ, re.compile(r"/|/theme\.css|/favicon\.ico|/manifest\.json|/viewer\.js")),
    (_READ, re.compile(rf"/assets/{_FILE}")),
    (_READ, re.compile(rf"/static/(?:{_FILE}/)*{_FILE}")),
    # Its calls and what they answer.
    (("POST",), re.compile("|".join(map(re.escape, (JOIN, CANCEL, RESET))))),
    (("GET",), re.compile(rf"{re.escape(STREAM)}|{HEARTBEAT.pattern}")),
    # Ours.
    (("GET",), re.compile(r"/adapters/news")),
    (_READ, re.compile(r"/images/[\w-]+/[\w.]+")),
)
"""Methods and the whole path; below `DOOR` the door itself answers what it does not know."""


def is_allowed(method: str, path: str) -> bool:
    """Returns True if a request of this method for this path exists."""
    return path.startswith(DOOR) or any(
        method in methods and pattern.fullmatch(path) for methods, pattern in ALLOWED
    )


def check_route(scope: Scope) -> None:
    """Checks that a request exists.

    Raises:
        GuardError: 404; the message says where the page and the door are.
    """
    if not is_allowed(scope["method"], scope["path"]):
        raise GuardError(
            404,
            "There is nothing at this address: the page is at /, the images API below /v1/.",
            "unknown_url",
        )


def check_own(method: str, path: str) -> None:
    """Checks the method of a request that the guard answers itself.

    Raises:
        GuardError: 405.
    """
    if (methods := _OWN_METHODS.get(path)) and method not in methods:
        raise GuardError(405, "This address is only read.", "method_not_allowed")


def session_of(scope: Scope) -> str | None:
    """The session that a reading request is of; None for one that is of none.

    Raises:
        GuardError: 422, a stream's query is not one session's name.
    """
    if found := HEARTBEAT.fullmatch(scope["path"]):
        return found[1]
    if scope["path"] != STREAM:
        return None
    query = _SESSION_QUERY.fullmatch(scope["query_string"].decode("latin-1"))
    if query is None:
        raise GuardError(422, "The query must be one session's name.", "bad_call")
    return query[1]


def check_origin(headers: Headers, method: str) -> None:
    """Checks that a browser sends the request for this site's own page, or for its user.

    `Sec-Fetch-Site` is set by the browser and cannot be forged by a page; browsers without it send
    `Origin` with requests that change something. Programs send neither.

    Raises:
        GuardError: 403; the request comes from a page of another site.
    """
    site, mode = headers.get("sec-fetch-site", "none"), headers.get("sec-fetch-mode")
    followed = mode == "navigate" and method in _READ
    origin = headers.get("origin")
    foreign = origin is not None and not _is_own(origin, headers)
    if foreign or (site not in ("none", "same-origin") and not followed):
        raise GuardError(403, "A page of another address may not do this.", "forbidden")


def _is_own(origin: str, headers: Headers) -> bool:
    scheme, separator, host = origin.partition("://")
    return bool(separator) and scheme in ("http", "https") and host == headers.get("host", "")
