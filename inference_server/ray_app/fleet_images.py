"""`wuliart.v1.ImageGenerationService` over many replicas.

Owns what becomes of a request whose replica dies, and of one that finds no room. Knows nothing of
who listens, nor of how a replica is chosen.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any, Final

from grpc import aio
from opentelemetry.context import attach
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import DeploymentUnavailableError

from inference_server.errors import RequestError
from inference_server.logs import REQUEST_ID
from inference_server.ray_app.names import AT_ONCE
from inference_server.ray_app.wire import Event, Failed, Taken
from inference_server.service.callers import CALLER
from inference_server.service.image_generation import REQUEST_ID_KEY, request_id
from inference_server.service.validation import validate
from wuliart.contract import tracing
from wuliart.contract.status import Reason
from wuliart.v1 import image_generation_pb2 as pb
from wuliart.v1 import image_generation_pb2_grpc as rpc

Context = aio.ServicerContext[Any, Any]

log = logging.getLogger(__name__)

ATTEMPTS: Final = 4
"""Replicas that one request is given to, one after another, as long as none has begun it."""

TELL_SECONDS: Final = 0.25
RETRY_SECONDS: Final = 1.0

GONE: Final = (RayActorError, DeploymentUnavailableError)


class FleetImages(rpc.ImageGenerationServiceServicer):
    """The servicer.

    Args:
        replicas: handle of the deployment.
        managed: of each replica, whether its LoRA manager runs.
        queue: requests that may wait here while every replica has as many as it takes.
    """

    def __init__(self, replicas: Any, managed: Mapping[str, bool], queue: int) -> None:
        self._draw = replicas.options(stream=True, method_name="draw", _by_reference=False)
        self._info = replicas.options(method_name="info", _by_reference=False)
        self._managed = managed
        self._queue = queue
        self._inside = 0
        self._waiting: dict[object, None] = {}
        self.counts: Counter[str] = Counter(requests=0, resident=0, again=0, lost=0)

    def refused(self, reason: Reason) -> None:
        """A call was turned away."""
        self.counts[f"refused {reason}"] += 1

    async def GenerateImage(
        self, request: pb.GenerateImageRequest, context: Context
    ) -> AsyncIterator[pb.GenerateImageResponse]:
        """See the .proto file."""
        metadata: Any = context.invocation_metadata() or ()
        attach(tracing.incoming(metadata))
        REQUEST_ID.set(request_id(metadata))
        # Whichever replica draws, and however often it is given to one: the same picture.
        request.seed = validate(request).seed
        self._admit()
        self._inside += 1
        try:
            told = False
            async for response in self._drawn(request):
                if not told:
                    # Not sooner: a call that has sent anything is not tried again by itself.
                    await context.send_initial_metadata(((REQUEST_ID_KEY, REQUEST_ID.get()),))
                    told = True
                yield response
        finally:
            self._inside -= 1

    def _admit(self) -> None:
        # Not Serve's own `max_queued_requests`: it counts what is only just being handed over, and
        # so refuses a burst that the replicas have room for.
        if not self._managed:
            raise starting()
        if self._inside >= len(self._managed) * AT_ONCE + self._queue:
            raise RequestError(
                Reason.QUEUE_FULL,
                f"{self._queue} requests wait already, which is as many as this fleet queues",
                retry_after=RETRY_SECONDS,
            )

    async def GetServerInfo(
        self, request: pb.GetServerInfoRequest, context: Context
    ) -> pb.GetServerInfoResponse:
        """See the .proto file; of one replica, as they are all alike."""
        try:
            info = pb.GetServerInfoResponse.FromString(await self._info.remote())
        except GONE as error:
            raise _lost(error) from None
        info.lora_manager_connected = bool(self._managed) and all(self._managed.values())
        return info

    async def _drawn(self, request: pb.GenerateImageRequest) -> AsyncIterator[Any]:
        """The responses, from as many replicas as it takes until one has begun."""
        for attempt in range(1, ATTEMPTS + 1):
            begun = False
            try:
                async for item in self._asked(request):
                    if isinstance(item, Failed):
                        raise item.error()
                    if isinstance(item, Event):
                        begun = begun or item.begun
                        yield pb.GenerateImageResponse.FromString(item.message)
                    elif isinstance(item, int):
                        yield pb.GenerateImageResponse(queued=pb.QueuedEvent(position=item))
                return
            except GONE as error:
                if begun or attempt == ATTEMPTS:
                    self.counts["lost"] += 1
                    raise _lost(error) from None
                self.counts["again"] += 1
                log.info("a replica died before it began: asking another")
            except RayTaskError:
                log.exception("a replica failed")
                raise RequestError(
                    Reason.INTERNAL, "a replica failed; its log has the details"
                ) from None

    async def _asked(self, request: pb.GenerateImageRequest) -> AsyncIterator[Event | Failed | int]:
        """What one replica says; before it is chosen, how many wait here before this one."""
        names = [adapter.name for adapter in request.adapters]
        stream = self._draw.remote(
            request.SerializeToString(),
            request_id=REQUEST_ID.get(),
            caller=CALLER.get(),
            styles=names,
        )
        token = object()
        self._waiting[token] = None
        try:
            async for item in self._first(stream, token):
                yield item
            async for item in stream:
                yield item
        finally:
            self._waiting.pop(token, None)
            # Reached when the caller leaves, too; harmless where all has been read.
            stream.cancel()

    async def _first(self, stream: Any, token: object) -> AsyncIterator[Failed | int]:
        """Waits for a replica to take it."""
        first = asyncio.ensure_future(anext(stream))
        told = 0
        try:
            while not (await asyncio.wait([first], timeout=TELL_SECONDS))[0]:
                position = 1 + list(self._waiting).index(token)
                if position != told:
                    told = position
                    yield position
            taken: Taken = first.result()
        finally:
            self._waiting.pop(token, None)
            first.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await first
        self.counts["requests"] += 1
        self.counts["resident"] += taken.resident


def starting() -> RequestError:
    """There is nobody yet who could answer."""
    return RequestError(
        Reason.STARTING, "no replica has loaded its model yet; try again in a moment"
    )


def _lost(error: Exception) -> RequestError:
    log.warning("a replica is gone: %s", error)
    return RequestError(
        Reason.REPLICA_LOST, "the replica that was drawing this picture has died; try again"
    )
