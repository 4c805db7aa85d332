"""What an OpenAI-shaped error is, and which one each failure becomes.

Owns the statuses, types and codes. Knows nothing of requests, nor of how images are generated.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic_core import ErrorDetails
from starlette.requests import ClientDisconnect

from wuliart_client import (
    AdapterNotFound,
    AdapterRefused,
    Busy,
    Cancelled,
    DeadlineExceeded,
    InvalidRequest,
    Unauthenticated,
    Unavailable,
    WuliArtError,
)

CLIENT_GONE: Final = 499
"""Status of an answer that nobody reads; for the access log."""

_SHOWN_CHARACTERS: Final = 80
_TOLD: Final = 5
"""Faults of one request that are listed one by one."""

_STATUSES: Final[tuple[tuple[type[WuliArtError], int, str, str], ...]] = (
    (InvalidRequest, 400, "invalid_request_error", "invalid_value"),
    (AdapterNotFound, 400, "invalid_request_error", "style_not_found"),
    (AdapterRefused, 400, "invalid_request_error", "style_refused"),
    (Unauthenticated, 401, "invalid_request_error", "invalid_api_key"),
    (Busy, 429, "rate_limit_error", "rate_limit_exceeded"),
    (Unavailable, 503, "server_error", "service_unavailable"),
    (DeadlineExceeded, 504, "server_error", "timeout"),
    (Cancelled, 503, "server_error", "cancelled"),
    (WuliArtError, 500, "server_error", "generation_failed"),
)
"""Exception, status, type, code; the first that fits."""

_ADAPTER_FIELD: Final = re.compile(r"adapters\[(\d+)\]")


class DoorError(Exception):
    """A failure as OpenAI's clients read it.

    `kind` is the error's `type`; `param` the request's field; `retry_after` seconds, None if it
    is not known when to try again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.retry_after = retry_after

    def body(self) -> dict[str, dict[str, str | None]]:
        """{"error": {"message", "type", "param", "code"}}."""
        return {
            "error": {
                "message": self.message,
                "type": self.kind,
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self) -> Response:
        """The whole answer."""
        headers = {}
        if self.retry_after is not None:
            # Whole seconds in HTTP; upwards, because earlier would be too early.
            headers["Retry-After"] = str(math.ceil(self.retry_after))
        return JSONResponse(self.body(), self.status, headers)


def shown(value: object) -> str:
    """What was given, short enough for a message and safe to encode (no lone surrogates)."""
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=repr)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


def model_not_found(model: str) -> DoorError:
    """As OpenAI answers for a model that it does not have."""
    return DoorError(
        404,
        f"The model {shown(model)} does not exist here: leave 'model' out for the base, or use "
        "a name that GET /v1/models lists.",
        param="model",
        code="model_not_found",
    )


def invalid_fields(errors: Sequence[ErrorDetails]) -> DoorError:
    """For what pydantic found; `param` is the first of them, the message tells all."""
    first = errors[0]
    code = {"extra_forbidden": "unknown_parameter", "missing": "missing_required_parameter"}.get(
        first["type"], "invalid_value"
    )
    told = " ".join(_told(error) for error in errors[:_TOLD])
    if len(errors) > _TOLD:
        told += f" And {len(errors) - _TOLD} more."
    return DoorError(400, told, param=_path(first["loc"]), code=code)


def _told(error: ErrorDetails) -> str:
    path = shown(_path(error["loc"]))
    if error["type"] == "extra_forbidden":
        return f"Unknown parameter: {path}. Leave it out."
    if error["type"] == "missing":
        return f"Missing required parameter: {path}. Add it."
    what = error["msg"].removeprefix("Value error, ")
    return f"Invalid value for {path}: {what}. You gave {shown(error['input'])}."


def _path(location: Sequence[int | str]) -> str:
    """('adapters', 0, 'name') -> 'adapters[0].name'."""
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    # A name from the request may hold lone surrogates, which no answer can carry.
    return path.removeprefix(".").encode("utf-8", "backslashreplace").decode()


def translated(error: WuliArtError, model_adapter: str | None = None) -> DoorError:
    """The answer to a failed call; `model_adapter` is the adapter that was named as the model."""
    named = error.metadata.get("adapter")
    if isinstance(error, AdapterNotFound) and named is not None and named == model_adapter:
        return model_not_found(named)
    _, status, kind, code = next(row for row in _STATUSES if isinstance(error, row[0]))
    message, param, retry_after = error.message, None, None
    if isinstance(error, InvalidRequest) and error.violations:
        fields = [(_field(path, model_adapter), what) for path, what in error.violations]
        message = "; ".join(f"{field} {what}" for field, what in fields)
        param = fields[0][0]
    elif isinstance(error, Busy):
        retry_after = error.retry_after
    elif named is not None:
        param = "model" if named == model_adapter else "adapters"
    return DoorError(status, message, kind=kind, param=param, code=code, retry_after=retry_after)


def _field(path: str, model_adapter: str | None) -> str:
    """The door's name for a field of the contract: adapters[1].name -> adapters[1].name."""

    def renamed(found: re.Match[str]) -> str:
        if model_adapter is None:
            return f"adapters[{found[1]}]"
        return "model" if found[1] == "0" else f"adapters[{int(found[1]) - 1}]"

    field = _ADAPTER_FIELD.sub(renamed, path)
    if field.startswith("model"):
        return "model"
    return "adapters" if field == "adapters" else field


class DoorRoute(APIRoute):
    """A route whose failures are answered in OpenAI's shape."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler with its failures caught."""
        handle = super().get_route_handler()

        async def handle_in_shape(request: Request) -> Response:
            try:
                return await handle(request)
            except DoorError as error:
                return error.response()
            except WuliArtError as error:
                return translated(error).response()
            except ClientDisconnect:
                return Response(status_code=CLIENT_GONE)

        return handle_in_shape
