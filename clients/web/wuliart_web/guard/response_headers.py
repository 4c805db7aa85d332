"""Headers of every response: what a browser may do with it, and which sites may read it.

The page's policy allows its inline scripts one by one, by hash, so that injected markup runs no
script. Gradio compiles `js_on_load` of its HTML component with `new Function`, which needs
'unsafe-eval'. CORS headers are removed: no other site may read a response.
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.types import Message, Send

DEFAULTS: Final = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), usb=(), serial=()",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}
"""Added to each response that does not set the header itself."""

_PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'self' 'unsafe-eval'{hashes}; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self'; manifest-src 'self'; "
    "worker-src 'self' blob:; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
LOGIN_POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
_INLINE_SCRIPT: Final = re.compile(rb"<script(?![^>]*\ssrc=)[^>]*>(.*?)</script>", re.DOTALL)
_CORS: Final = "access-control-"


def with_headers(send: Send) -> Send:
    """Returns the ASGI channel `send` with `DEFAULTS` and without CORS headers."""

    async def channel(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name in [name for name in headers if name.lower().startswith(_CORS)]:
                del headers[name]
            for name, value in DEFAULTS.items():
                headers.setdefault(name, value)
        await send(message)

    return channel


def with_page_policy(send: Send) -> Send:
    """Returns the ASGI channel `send` for the page itself, whose policy lists its inline scripts.

    An HTML response is held back until it is complete; others pass through.
    """
    start: Message | None = None
    body = bytearray()

    async def channel(message: Message) -> None:
        nonlocal start
        if message["type"] == "http.response.start":
            kind = MutableHeaders(scope=message).get("content-type", "")
            if kind.startswith("text/html"):
                start = message
                return
        elif start is not None:
            body.extend(message.get("body", b""))
            if message.get("more_body", False):
                return
            MutableHeaders(scope=start)["content-security-policy"] = page_policy(bytes(body))
            await send(start)
            message = {"type": "http.response.body", "body": bytes(body), "more_body": False}
            start = None
        await send(message)

    return channel


def page_policy(html: bytes) -> str:
    """Returns the page's Content-Security-Policy: its own files, and its inline scripts by hash."""
    digests = (hashlib.sha256(script).digest() for script in _INLINE_SCRIPT.findall(html))
    hashes = "".join(f" 'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return _PAGE_POLICY.format(hashes=hashes)
