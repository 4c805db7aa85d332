"""What a request is answered that goes no further than the guard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from starlette.responses import JSONResponse, Response

from wuliart_web.openai_errors import DoorError

DOOR: Final = "/v1/"
"""Paths below this are answered in OpenAI's error shape."""


class GuardError(Exception):
    """A request that is refused.

    Args:
        status: HTTP status code.
        message: what is wrong and what to do; sent to the client, so it repeats nothing of the
            request that could be a secret.
        code: `error.code` where the answer has OpenAI's shape.
        headers: further headers of the answer.
    """

    def __init__(
        self, status: int, message: str, code: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.headers = dict(headers or {})

    def response(self, path: str) -> Response:
        """The answer to a request for `path`."""
        if path.startswith(DOOR):
            body = DoorError(self.status, self.message, code=self.code).body()
            return JSONResponse(body, self.status, self.headers)
        content = json.dumps({"error": self.message})
        return Response(content, self.status, self.headers, "application/json")
