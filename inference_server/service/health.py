"""`grpc.health.v1.Health`, for probes that need no token.

The servicer of grpcio-health-checking is not used: it waits for each watching client to read before
it changes a status, so one that does not read would keep the server from becoming ready.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2 as pb
from grpc_health.v1 import health_pb2_grpc as rpc

NAME: Final = pb.DESCRIPTOR.services_by_name["Health"].full_name

Context = aio.ServicerContext[Any, Any]


class Health(rpc.HealthServicer):
    """The servicer; NOT_SERVING until `ready`, and again for good from `draining` on.

    Args:
        services: full names of the services; all have the same status.
    """

    def __init__(self, services: Sequence[str]) -> None:
        self._services = ("", *services)
        self._status: int = pb.HealthCheckResponse.NOT_SERVING
        self._draining = False
        self._changed = asyncio.Event()

    def ready(self) -> None:
        """Sets the status to SERVING, unless the server is draining."""
        if not self._draining:
            self._set(pb.HealthCheckResponse.SERVING)

    def draining(self) -> None:
        """Sets the status to NOT_SERVING for good."""
        self._draining = True
        self._set(pb.HealthCheckResponse.NOT_SERVING)

    async def Check(
        self, request: pb.HealthCheckRequest, context: Context
    ) -> pb.HealthCheckResponse:
        """Returns the status of one service; NOT_FOUND if there is no such service."""
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such service here")
        return pb.HealthCheckResponse(status=self._status)

    async def List(self, request: Any, context: Context) -> Any:
        """Returns the status of each service."""
        status = pb.HealthCheckResponse(status=self._status)
        statuses = dict.fromkeys(self._services, status)
        return vars(pb)["HealthListResponse"](statuses=statuses)  # missing from the type stubs

    async def Watch(
        self, request: pb.HealthCheckRequest, context: Context
    ) -> AsyncIterator[pb.HealthCheckResponse]:
        """Streams the status of one service whenever it changes, without end."""
        sent = None
        while True:
            changed = self._changed
            status = self._status_of(request.service)
            if status != sent:
                sent = status
                yield pb.HealthCheckResponse(status=status)
            await changed.wait()

    def _status_of(self, service: str) -> int:
        known = service in self._services
        return self._status if known else pb.HealthCheckResponse.SERVICE_UNKNOWN

    def _set(self, status: int) -> None:
        self._status = status
        self._changed.set()
        self._changed = asyncio.Event()
