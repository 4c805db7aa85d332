"""`wuliart.v1.ImageGenerationService` over many replicas.

Owns who is let in while replicas are starting or full. Knows nothing of who listens, nor of what
becomes of a request at its replica.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

from grpc import aio

from inference_server.errors import RequestError
from inference_server.ray_app.names import AT_ONCE
from inference_server.ray_app.replica_calls import ReplicaCalls
from inference_server.service.request_ids import take_up, told
from inference_server.service.validation import ANY_STEPS, validate
from wuliart.v1 import image_generation_pb2 as pb
from wuliart.v1 import image_generation_pb2_grpc as rpc
from wuliart_contract.status import Reason

Context = aio.ServicerContext[Any, Any]

log = logging.getLogger(__name__)

RETRY_SECONDS: Final = 1.0


class FleetImages(rpc.ImageGenerationServiceServicer):
    """The servicer.

    Args:
        replicas: who generates.
        managed: says of each replica whether its LoRA manager runs.
        queue: requests that may wait here while every replica has as many as it takes.
    """

    def __init__(
        self, replicas: ReplicaCalls, managed: Callable[[], Sequence[bool]], queue: int
    ) -> None:
        self._replicas = replicas
        self._managed = managed
        self._queue = queue
        self._inside = 0

    def refused(self, reason: Reason) -> None:
        """A call was turned away."""
        log.info("refused: %s", reason)
        self._replicas.counts.errors[reason] += 1

    async def GenerateImage(
        self, request: pb.GenerateImageRequest, context: Context
    ) -> AsyncIterator[pb.GenerateImageResponse]:
        """See the .proto file."""
        take_up(context.invocation_metadata())
        try:
            # Whichever replica generates, and however often it is given to one: the same image.
            request.seed = validate(request, ANY_STEPS).seed
            self._admit()
        except RequestError as error:
            self.refused(error.reason)
            raise
        self._inside += 1
        try:
            async for response in told(self._replicas.draw(request), context):
                yield response
        finally:
            self._inside -= 1

    def _admit(self) -> None:
        # Not Serve's own `max_queued_requests`: it counts what is only just being handed over, and
        # so refuses a burst that the replicas have room for.
        replicas = len(self._managed())
        if not replicas:
            raise starting()
        if self._inside >= replicas * AT_ONCE + self._queue:
            raise RequestError(
                Reason.QUEUE_FULL,
                f"{self._queue} requests wait already, which is as many as this fleet queues",
                retry_after=RETRY_SECONDS,
            )

    async def GetServerInfo(
        self, request: pb.GetServerInfoRequest, context: Context
    ) -> pb.GetServerInfoResponse:
        """See the .proto file; of one replica, as they are all alike."""
        info = await self._replicas.info()
        managed = self._managed()
        info.lora_manager_connected = bool(managed) and all(managed)
        return info


def starting() -> RequestError:
    """There is nobody yet who could answer."""
    return RequestError(
        Reason.STARTING, "no replica has loaded its model yet; try again in a moment"
    )
