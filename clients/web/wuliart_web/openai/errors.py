"""Errors in OpenAI's shape, and the one that each error of the service becomes."""

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
"""Status in the access log of a request whose client has left."""

_MAX_VALUE_CHARACTERS: Final = 80
"""Characters of a value that a message repeats."""

_MAX_LISTED: Final = 5
"""Invalid fields that a message lists one by one."""

_STATUSES: Final[tuple[tuple[type[WuliArtError], int, str, str], ...]] = (
    (InvalidRequest, 400, "invalid_request_error", "invalid_value"),
    (AdapterNotFound, 400, "invalid_request_error", "adapter_not_found"),
    (AdapterRefused, 400, "invalid_request_error", "adapter_refused"),
    (Unauthenticated, 401, "invalid_request_error", "invalid_api_key"),
    (Busy, 429, "rate_limit_error", "rate_limit_exceeded"),
    (Unavailable, 503, "server_error", "service_unavailable"),
    (DeadlineExceeded, 504, "server_error", "timeout"),
    (Cancelled, 503, "server_error", "cancelled"),
    (WuliArtError, 500, "server_error", "generation_failed"),
)
"""Exception, HTTP status, `type` and `code`; the first row that matches applies."""

_ADAPTER_FIELD: Final = re.compile(r"adapters\[(\d+)\]")


class ApiError(Exception):
    """An error as OpenAI's clients read it.

    Args:
        status: HTTP status code.
        message: what is wrong and what to do.
        kind: the error's `type`.
        param: the field of the request.
        code: the error's `code`.
        retry_after: in seconds; None if it is unknown.
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
        """Returns {"error": {"message", "type", "param", "code"}}."""
        return {
            "error": {
                "message": self.message,
                "type": self.kind,
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self) -> Response:
        """Returns the whole response."""
        headers = {}
        if self.retry_after is not None:
            # HTTP has whole seconds; rounded up, because a retry before its time fails.
            headers["Retry-After"] = str(math.ceil(self.retry_after))
        return JSONResponse(self.body(), self.status, headers)


def shown(value: object) -> str:
    """Returns a value as a message shows it: short, and without lone surrogates."""
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=repr)
    return text if len(text) <= _MAX_VALUE_CHARACTERS else f"{text[:_MAX_VALUE_CHARACTERS]}…"


def model_not_found(model: str) -> ApiError:
    """Returns the error that OpenAI has for an unknown model."""
    return ApiError(
        404,
        f"The model {shown(model)} does not exist here: leave 'model' out for the base, or use "
        "a name that GET /v1/models lists.",
        param="model",
        code="model_not_found",
    )


def invalid_fields(errors: Sequence[ErrorDetails]) -> ApiError:
    """Returns the error for pydantic's findings; `param` is the first invalid field."""
    first = errors[0]
    code = {"extra_forbidden": "unknown_parameter", "missing": "missing_required_parameter"}.get(
        first["type"], "invalid_value"
    )
    message = " ".join(_field_message(error) for error in errors[:_MAX_LISTED])
    if len(errors) > _MAX_LISTED:
        message += f" And {len(errors) - _MAX_LISTED} more."
    return ApiError(400, message, param=_path(first["loc"]), code=code)


def _field_message(error: ErrorDetails) -> str:
    path = shown(_path(error["loc"]))
    if error["type"] == "extra_forbidden":
        return f"Unknown parameter: {path}. Leave it out."
    if error["type"] == "missing":
        return f"Missing required parameter: {path}. Add it."
    what = error["msg"].removeprefix("Value error, ")
    return f"Invalid value for {path}: {what}. You gave {shown(error['input'])}."


def _path(location: Sequence[int | str]) -> str:
    """Returns 'adapters[0].name' for ('adapters', 0, 'name')."""
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    # A name from the request may hold lone surrogates, which cannot be encoded.
    return path.removeprefix(".").encode("utf-8", "backslashreplace").decode()


def translated(error: WuliArtError, model_adapter: str | None = None) -> ApiError:
    """Returns the error that an error of the service becomes.

    Args:
        error: from the service's client.
        model_adapter: the adapter that the request's `model` names, None for the base model.
    """
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
    return ApiError(status, message, kind=kind, param=param, code=code, retry_after=retry_after)


def _field(path: str, model_adapter: str | None) -> str:
    """Returns the name that a field of the gRPC request has in this API.

    With a `model_adapter`, the gRPC request's adapters[0] is `model`, and adapters[1] is this API's
    adapters[0].
    """

    def renamed(found: re.Match[str]) -> str:
        if model_adapter is None:
            return f"adapters[{found[1]}]"
        return "model" if found[1] == "0" else f"adapters[{int(found[1]) - 1}]"

    field = _ADAPTER_FIELD.sub(renamed, path)
    if field.startswith("model"):
        return "model"
    return "adapters" if field == "adapters" else field


class ApiRoute(APIRoute):
    """A route whose errors are answered in OpenAI's shape."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Returns the handler, with its errors turned into responses."""
        handle = super().get_route_handler()

        async def handle_errors(request: Request) -> Response:
            try:
                return await handle(request)
            except ApiError as error:
                return error.response()
            except WuliArtError as error:
                return translated(error).response()
            except ClientDisconnect:
                return Response(status_code=CLIENT_GONE)

        return handle_errors
