"""The error for a request that the guard rejects, and the response it becomes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from starlette.responses import JSONResponse, Response

from wuliart_web.openai.errors import ApiError

API_PREFIX: Final = "/v1/"
"""Paths below this get errors in OpenAI's shape."""


class GuardError(Exception):
    """A request is rejected.

    Args:
        status: HTTP status code.
        message: what is wrong and what to do. It is sent to the client and repeats nothing of the
            request that could be a secret.
        code: `error.code` where the response has OpenAI's shape.
        headers: further headers of the response.
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
        """Returns the response to a request for `path`."""
        if path.startswith(API_PREFIX):
            body = ApiError(self.status, self.message, code=self.code).body()
            return JSONResponse(body, self.status, self.headers)
        content = json.dumps({"error": self.message})
        return Response(content, self.status, self.headers, "application/json")
