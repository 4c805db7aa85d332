"""Calls to the replicas, as if they were one server; an image whose replica dies is retried."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any, Final

from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import DeploymentUnavailableError

from inference_server.errors import RequestError
from inference_server.ray_app.resumption import ImageChangedError, Resumption
from inference_server.ray_app.wire import Accepted, Failure
from inference_server.service.clients import CLIENT
from inference_server.service.image_calls import Responses
from inference_server.service.request_ids import outgoing_metadata
from wuliart.v1 import image_generation_pb2 as pb
from wuliart_contract.status import Reason

log = logging.getLogger(__name__)

MAX_ATTEMPTS: Final = 4
"""Replicas that one request is given to, each after the death of the one before."""

MAX_STARTS: Final = 2
"""Replicas that may start to generate it: a request that two have died of may be the cause."""

POSITION_SECONDS: Final = 0.25
"""Least time between two queue positions sent to one client."""

REPLICA_DIED: Final = (RayActorError, DeploymentUnavailableError)


@dataclass(slots=True)
class Counts:
    """Counters since the front's start."""

    requests: int = 0
    """Requests that a replica has accepted; one that is retried counts again."""
    resident: int = 0
    """Accepted requests that found all their adapters in memory."""
    retries: int = 0
    """Requests moved to another replica because theirs died."""
    errors: Counter[Reason] = field(default_factory=Counter)
    """Errors of the front itself; replicas count their own."""


class ReplicaCalls:
    """The replicas of a fleet.

    Args:
        replicas: handle of the deployment.
    """

    def __init__(self, replicas: Any) -> None:
        self._generate = replicas.options(stream=True, method_name="generate", _by_reference=False)
        self._info = replicas.options(method_name="info", _by_reference=False)
        self._waiting: dict[object, None] = {}
        """Requests that no replica has accepted yet, oldest first."""
        self.counts = Counts()

    @property
    def waiting(self) -> int:
        """Number of requests that no replica has accepted yet."""
        return len(self._waiting)

    async def info(self) -> pb.GetServerInfoResponse:
        """Returns the description of one replica.

        Raises:
            RequestError: REPLICA_LOST.
        """
        try:
            return pb.GetServerInfoResponse.FromString(await self._info.remote())
        except REPLICA_DIED:
            raise RequestError(
                Reason.REPLICA_LOST, "the replica that was called has died; try again"
            ) from None

    async def generate(self, request: pb.GenerateImageRequest) -> Responses:
        """Yields the responses of one image, each once even if a second replica generates it.

        Args:
            request: with its seed set, so that each replica generates the same image.

        Raises:
            RequestError: the image cannot be generated.
        """
        arrived, starts, resumption = time.monotonic(), 0, Resumption()
        for attempt in range(1, MAX_ATTEMPTS + 1):
            started = False
            try:
                async with aclosing(self._attempt(request, arrived)) as responses:
                    async for response in responses:
                        started = started or not response.HasField("queued")
                        if resumption.is_new(response):
                            yield response
                return
            except REPLICA_DIED as error:
                starts += started
                if attempt == MAX_ATTEMPTS or starts == MAX_STARTS:
                    raise self._lost(error, "has died") from None
                self.counts.retries += 1
                log.info("a replica has died; trying another")
            except ImageChangedError as error:
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

    async def _attempt(self, request: pb.GenerateImageRequest, arrived: float) -> Responses:
        """Yields positions in the front's queue, then the responses of one replica."""
        stream = self._generate.remote(
            request.SerializeToString(),
            metadata=outgoing_metadata(),
            client=CLIENT.get(),
            adapters=[adapter.name for adapter in request.adapters],
        )
        try:
            async with aclosing(self._positions(stream)) as positions:
                async for position in positions:
                    yield pb.GenerateImageResponse(queued=pb.QueuedEvent(position=position))
            waited = time.monotonic() - arrived
            async for item in stream:
                if isinstance(item, Failure):
                    raise item.error()
                response = pb.GenerateImageResponse.FromString(item.message)
                if response.HasField("completed"):
                    _add_queue_time(response.completed.timings, waited)
                yield response
        finally:
            # Also when the client leaves; without effect on a stream that has ended.
            stream.cancel()

    async def _positions(self, stream: Any) -> AsyncGenerator[int, None]:
        """Yields each new position in the front's queue until a replica accepts the request."""
        token = object()
        self._waiting[token] = None
        first = asyncio.ensure_future(anext(stream))
        sent = 0
        try:
            while not (await asyncio.wait([first], timeout=POSITION_SECONDS))[0]:
                position = 1 + list(self._waiting).index(token)
                if position != sent:
                    sent = position
                    yield position
            accepted: Accepted = first.result()
        finally:
            del self._waiting[token]
            first.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await first
        self.counts.requests += 1
        self.counts.resident += accepted.resident


def _add_queue_time(timings: pb.StageTimings, seconds: float) -> None:
    """Adds the time in the front's queue to that in the replica's."""
    for duration in (timings.queued, timings.total):
        duration.FromNanoseconds(duration.ToNanoseconds() + round(seconds * 1e9))
