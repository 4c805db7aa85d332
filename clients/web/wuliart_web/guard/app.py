"""The outermost application: decides which requests reach the page and the OpenAI API.

It checks host, origin, token, route and body, in this order, and every field of Gradio's calls. A
rejected request is answered here, and no more of it is read than its check needs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import nullcontext
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wuliart_process import allowed_hosts
from wuliart_process.tokens import TokenFile
from wuliart_web.clients import known_token
from wuliart_web.guard import login
from wuliart_web.guard.bodies import Incoming, read_body, replay
from wuliart_web.guard.error import API_PREFIX, GuardError
from wuliart_web.guard.gradio_calls import CANCEL, JOIN, RESET, GradioCalls
from wuliart_web.guard.response_headers import with_headers, with_page_policy
from wuliart_web.guard.routes import (
    ALIVE,
    LOGIN,
    PAGE,
    STREAM,
    check_origin,
    check_own,
    check_route,
    session_of,
)
from wuliart_web.guard.sessions import Sessions

_TOKEN_CHECK_SECONDS: Final = 0.5
"""Time between two checks of an open request's token."""

_UNAUTHENTICATED: Final = {"WWW-Authenticate": "Bearer"}


class Guard:
    """An ASGI application that guards another one.

    Args:
        app: the guarded application.
        tokens: every request but the liveness probe needs one of them; None requires none.
        allowed_hosts: names accepted in the Host header besides `localhost` and literal addresses;
            see `wuliart_process.allowed_hosts`.
        calls: checks the bodies of Gradio's calls.
        sessions: limits Gradio's sessions.
    """

    def __init__(
        self,
        app: ASGIApp,
        tokens: TokenFile | None,
        allowed_hosts: Collection[str],
        calls: GradioCalls,
        sessions: Sessions,
    ) -> None:
        self.app = app
        self._tokens = tokens
        self._hosts = frozenset(allowed_hosts)
        self._calls = calls
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, or passes it on."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        send, receive = with_headers(send), Incoming(receive)
        try:
            await self._serve(scope, receive, send)
        except GuardError as error:
            response = error.response(scope["path"])
            if scope["method"] not in ("GET", "HEAD"):
                # The rest of the body would be taken for the next request.
                response.headers["Connection"] = "close"
                await receive.discard()
            await response(scope, receive, send)
        except ClientDisconnect:
            # The client has left: nothing is sent, and the server closes the connection.
            await Response(status_code=400)(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers, path, method = Headers(scope=scope), scope["path"], scope["method"]
        self._check_host(headers)
        check_own(method, path)
        if path == ALIVE:
            status = 200 if self._sessions.is_working else 503
            await Response(status_code=status)(scope, receive, send)
            return
        check_origin(headers, method)
        token = None
        if self._tokens is not None:
            if path == LOGIN:
                response = await self._log_in(self._tokens, scope, receive)
                await response(scope, receive, send)
                return
            token = known_token(headers, self._tokens)
            if token is None:
                await self._unauthenticated(headers, path)(scope, receive, send)
                return
        check_route(scope)
        owner = token or ""
        if method not in ("GET", "HEAD"):
            body = await read_body(headers, receive)
            if path in (JOIN, CANCEL, RESET):
                session = self._calls.check(path, body)
                if path == JOIN:
                    await self._sessions.admit(session, owner)
                else:
                    self._sessions.check(session, owner)
            receive = replay(body, receive)
        if path == PAGE:
            send = with_page_policy(send)
        reading = session_of(scope)
        if path != STREAM:
            # Gradio interprets parameters: one loads a page's state from a file.
            scope = {**scope, "query_string": b""}
        if reading is not None:
            self._sessions.check(reading, owner)
        stream = self._sessions.reading(reading, owner) if reading and path == STREAM else None
        async with stream or nullcontext():
            if self._tokens is None or token is None:
                await self._pass_on(scope, receive, send)
            else:
                await self._pass_on_while_valid(self._tokens, token, scope, receive, send)

    def _check_host(self, headers: Headers) -> None:
        given = headers.getlist("host")
        if len(given) != 1 or not allowed_hosts.allowed(given[0], self._hosts):
            raise GuardError(
                421,
                "The name in the request's Host header is not a name of this server. Use its "
                "address, or start wuliart-web with --allowed-host and that name.",
                "host_not_allowed",
            )

    async def _log_in(self, tokens: TokenFile, scope: Scope, receive: Receive) -> Response:
        headers = Headers(scope=scope)
        if scope["method"] != "POST":
            return login.form(headers, 200)
        body = await read_body(headers, receive)
        return login.log_in(headers, body, tokens, secure=scope["scheme"] == "https")

    @staticmethod
    def _unauthenticated(headers: Headers, path: str) -> Response:
        """Returns the login form for a browser.

        Raises:
            GuardError: 401 for any other client.
        """
        if path.startswith(API_PREFIX) or "text/html" not in headers.get("accept", ""):
            raise GuardError(
                401,
                "Send a valid token of this server as a bearer token.",
                "invalid_api_key",
                _UNAUTHENTICATED,
            )
        return login.form(headers, 401)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        except RuntimeError as error:
            # Gradio's stream of an unknown session first tells its client why it ends, and then
            # raises the HTTP error, too late for a response.
            if not isinstance(error.__cause__, HTTPException) or error.__cause__.status_code >= 500:
                raise
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pass_on_while_valid(
        self, tokens: TokenFile, token: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Passes a request on, and cancels it when its token is revoked, even while it streams."""
        started = ended = sized = False

        async def observed(message: Message) -> None:
            nonlocal started, ended, sized
            if message["type"] == "http.response.start":
                started = True
                sized = "content-length" in MutableHeaders(scope=message)
            ended = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        serving = asyncio.create_task(self._pass_on(scope, receive, observed))
        try:
            while not serving.done():
                await asyncio.wait((serving,), timeout=_TOKEN_CHECK_SECONDS)
                if not serving.done() and tokens.name_of(token) is None:
                    break
            else:
                serving.result()
                return
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
        if not started:
            await self._unauthenticated(Headers(scope=scope), scope["path"])(scope, receive, send)
        elif not ended and not sized:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        # A response with a declared length cannot end early: the server closes its connection.
