"""`wuliart.v1.ImageGenerationService` of a fleet: admits requests and hands them to replicas."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Any, Final

from grpc import aio

from inference_server.errors import RequestError
from inference_server.ray_app.names import MAX_ONGOING_REQUESTS
from inference_server.ray_app.replica_calls import ReplicaCalls
from inference_server.service.image_calls import ImageServicer, Responses
from inference_server.service.validation import ANY_STEPS, validate
from wuliart.v1 import image_generation_pb2 as pb
from wuliart_contract.status import Reason

Context = aio.ServicerContext[Any, Any]

log = logging.getLogger(__name__)

RETRY_SECONDS: Final = 1.0


class FleetImageServicer(ImageServicer):
    """Generates images with the replicas.

    Args:
        replicas: generate the images.
        managed: returns, for each replica that reports, True if its LoRA manager runs.
        queue: requests that may wait in the front while every replica has as many as it takes.
    """

    def __init__(
        self, replicas: ReplicaCalls, managed: Callable[[], Sequence[bool]], queue: int
    ) -> None:
        self._replicas = replicas
        self._managed = managed
        self._queue = queue
        self._open = 0

    def accept(self, request: pb.GenerateImageRequest) -> Responses:
        """See `ImageServicer`."""
        # A seed is picked here so that each replica that is tried generates the same image.
        request.seed = validate(request, ANY_STEPS).seed
        self._check_capacity()
        return self._responses(request)

    def count_error(self, reason: Reason) -> None:
        """See `ImageServicer`."""
        self._replicas.counts.errors[reason] += 1

    def refused(self, reason: Reason) -> None:
        """Logs and counts a call that the guard rejected."""
        log.info("refused: %s", reason)
        self.count_error(reason)

    async def GetServerInfo(
        self, request: pb.GetServerInfoRequest, context: Context
    ) -> pb.GetServerInfoResponse:
        """See the .proto file. Describes one replica: all have the same settings."""
        info = await self._replicas.info()
        managed = self._managed()
        info.lora_manager_connected = bool(managed) and all(managed)
        return info

    async def _responses(self, request: pb.GenerateImageRequest) -> Responses:
        self._open += 1
        try:
            async with aclosing(self._replicas.generate(request)) as responses:
                async for response in responses:
                    yield response
        finally:
            self._open -= 1

    def _check_capacity(self) -> None:
        # Not Serve's own `max_queued_requests`: it also counts requests that are just being handed
        # to a replica, and so rejects a burst that the replicas have capacity for.
        replicas = len(self._managed())
        if not replicas:
            raise starting()
        if self._open >= replicas * MAX_ONGOING_REQUESTS + self._queue:
            raise RequestError(
                Reason.QUEUE_FULL,
                f"{self._queue} requests wait already, which is as many as this fleet queues",
                retry_after=RETRY_SECONDS,
            )


def starting() -> RequestError:
    """Returns the error of a call that arrives before the first replica is ready."""
    return RequestError(
        Reason.STARTING, "no replica has loaded its model yet; try again in a moment"
    )
