"""Reads gRPC calls in tests: the rest of a stream, the kinds of its events, and failures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import grpc
from google.rpc import error_details_pb2
from grpc import aio
from grpc_status import rpc_status

from wuliart.v1.image_generation_pb2 import GenerateImageResponse


async def rest_of(call: Any) -> list[Any]:
    """Reads the rest of a stream's responses; raises the error it ends in."""
    # grpc.aio refuses `async for` on a call that `read` was used on before.
    responses = []
    while (response := await call.read()) is not aio.EOF:
        responses.append(response)
    return responses


async def kinds(call: Any) -> list[str]:
    """Reads the rest of a GenerateImage call; returns the kind of each event."""
    return [response.WhichOneof("event") for response in await rest_of(call)]


async def read_until(call: Any, kind: str) -> GenerateImageResponse:
    """Reads up to the next event of that kind."""
    while (response := await call.read()) is not aio.EOF:
        if response.WhichOneof("event") == kind:
            return response  # type: ignore[no-any-return]
    raise AssertionError(f"the stream ended without {kind!r}")


@dataclass(frozen=True)
class Failure:
    """A status with its details unpacked."""

    code: grpc.StatusCode
    message: str
    reason: str
    metadata: dict[str, str]
    violations: dict[str, str]
    """Field -> description; a field that is listed twice fails."""
    bad_requests: int
    retry_seconds: float | None


async def failure_of(call: Any) -> Failure:
    """Returns the failure of a unary or streaming call; fails the test if the call succeeds."""
    try:
        answer = await rest_of(call) if hasattr(call, "read") else await call
        raise AssertionError(f"did not fail but answered {str(answer)[:200]}")
    except aio.AioRpcError as error:
        return read_failure(error)


def read_failure(error: aio.AioRpcError) -> Failure:
    status = rpc_status.from_call(cast(Any, error))
    assert status is not None, f"no google.rpc.Status in {error.code()}: {error.details()}"
    info, bad, retry = (
        _unpacked(status, kind)
        for kind in (
            error_details_pb2.ErrorInfo,
            error_details_pb2.BadRequest,
            error_details_pb2.RetryInfo,
        )
    )
    assert len(info) == 1 and info[0].domain == "wuliart"
    listed = [v for b in bad for v in b.field_violations]
    violations = {v.field: v.description for v in listed}
    assert len(violations) == len(listed), f"a field is listed twice: {listed}"
    return Failure(
        error.code(),
        error.details() or "",
        info[0].reason,
        dict(info[0].metadata),
        violations,
        len(bad),
        retry[0].retry_delay.ToNanoseconds() / 1e9 if retry else None,
    )


def _unpacked(status: Any, kind: Any) -> list[Any]:
    found = []
    for detail in status.details:
        message = kind()
        if detail.Unpack(message):
            found.append(message)
    return found
