"""The replicas as one that generates.

Owns what becomes of an image whose replica dies, and what is counted of it. Knows nothing of who
asks, nor of how a replica is chosen.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import DeploymentUnavailableError

from inference_server.errors import RequestError
from inference_server.ray_app.resumption import OtherImageError, Telling
from inference_server.ray_app.wire import Failed, Taken
from inference_server.service.clients import CLIENT
from inference_server.service.request_ids import handed_on
from wuliart.v1 import image_generation_pb2 as pb
from wuliart_contract.status import Reason

log = logging.getLogger(__name__)

ATTEMPTS: Final = 4
"""Replicas that one request is given to, one after another, each after the last one's death."""

BEGINNINGS: Final = 2
"""Replicas that begin to generate it: what has killed two may well be the request itself."""

TELL_SECONDS: Final = 0.25
"""Between two positions that a client is told."""

GONE: Final = (RayActorError, DeploymentUnavailableError)


@dataclass(slots=True)
class Counts:
    """What the front has seen since its start."""

    requests: int = 0
    """Given to a replica; those given to a second one count twice."""
    resident: int = 0
    """Of them, those that found all their adapters in memory."""
    again: int = 0
    """Requests given to another replica because theirs has died."""
    errors: Counter[Reason] = field(default_factory=Counter)
    """Told by the front itself; what a replica refuses is counted there."""


class ReplicaCalls:
    """Generates images.

    Args:
        replicas: handle of the deployment.
    """

    def __init__(self, replicas: Any) -> None:
        self._draw = replicas.options(stream=True, method_name="draw", _by_reference=False)
        self._info = replicas.options(method_name="info", _by_reference=False)
        self._waiting: dict[object, None] = {}
        """The oldest first."""
        self.counts = Counts()

    @property
    def waiting(self) -> int:
        """Requests that no replica has taken yet."""
        return len(self._waiting)

    async def info(self) -> pb.GetServerInfoResponse:
        """What one of them says of itself; they are all alike."""
        try:
            return pb.GetServerInfoResponse.FromString(await self._info.remote())
        except GONE:
            raise RequestError(
                Reason.REPLICA_LOST, "the replica that was asked has died; try again"
            ) from None

    async def draw(self, request: pb.GenerateImageRequest) -> AsyncIterator[Any]:
        """The responses; of an image that has to be generated again, each is told once.

        Args:
            request: with its seed, so that whoever generates it generates the same image.

        Raises:
            RequestError: there is no image.
        """
        arrived, began, telling = time.monotonic(), 0, Telling()
        for attempt in range(1, ATTEMPTS + 1):
            drawing = False
            try:
                async for response in self._asked(request, arrived):
                    drawing = drawing or not response.HasField("queued")
                    if telling.is_news(response):
                        yield response
                return
            except GONE as error:
                began += drawing
                if attempt == ATTEMPTS or began == BEGINNINGS:
                    raise self._lost(error, "has died") from None
                self.counts.again += 1
                log.info("a replica died: asking another")
            except OtherImageError as error:
                raise self._lost(error, "has died, and an adapter has changed since") from None
            except RayTaskError:
                self.counts.errors[Reason.INTERNAL] += 1
                log.exception("a replica failed")
                raise RequestError(
                    Reason.INTERNAL, "a replica failed; its log has the details"
                ) from None

    def _lost(self, error: Exception, how: str) -> RequestError:
        self.counts.errors[Reason.REPLICA_LOST] += 1
        log.warning("a replica is gone: %s", error)
        return RequestError(
            Reason.REPLICA_LOST, f"the replica that was generating this image {how}; try again"
        )

    async def _asked(self, request: pb.GenerateImageRequest, arrived: float) -> AsyncIterator[Any]:
        """What one replica says; before it is chosen, how many wait here before this one."""
        names = [adapter.name for adapter in request.adapters]
        stream = self._draw.remote(
            request.SerializeToString(),
            metadata=handed_on(),
            client=CLIENT.get(),
            adapters=names,
        )
        try:
            async for position in self._taken(stream):
                yield pb.GenerateImageResponse(queued=pb.QueuedEvent(position=position))
            waited = time.monotonic() - arrived
            async for item in stream:
                if isinstance(item, Failed):
                    raise item.error()
                response = pb.GenerateImageResponse.FromString(item.message)
                if response.HasField("completed"):
                    _add_waiting(response.completed.timings, waited)
                yield response
        finally:
            # Reached when the client leaves, too; harmless where all has been read.
            stream.cancel()

    async def _taken(self, stream: Any) -> AsyncIterator[int]:
        """Until a replica has it: the position here, whenever it is another."""
        token = object()
        self._waiting[token] = None
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
            del self._waiting[token]
            first.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await first
        self.counts.requests += 1
        self.counts.resident += taken.resident


def _add_waiting(timings: pb.StageTimings, seconds: float) -> None:
    """What was waited for in front of the replica counts as the replica's own queue does."""
    for duration in (timings.queued, timings.total):
        duration.FromNanoseconds(duration.ToNanoseconds() + round(seconds * 1e9))
