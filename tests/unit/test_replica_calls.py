"""What becomes of an image whose replica dies: another generates it, within limits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from ray.exceptions import RayActorError, RayTaskError

from inference_server.errors import RequestError
from inference_server.ray_app.replica_calls import ATTEMPTS, Counts, ReplicaCalls
from inference_server.ray_app.wire import Event, Failed, Taken
from wuliart.v1 import image_generation_pb2 as pb
from wuliart_contract.status import Reason

Response = pb.GenerateImageResponse

TAKEN = Taken("a", resident=True)
QUEUED = Response(queued=pb.QueuedEvent(position=1))
STARTED = Response(started=pb.StartedEvent(seed=7, steps=4))
STEP = Response(step=pb.StepEvent(step=1, total_steps=4))
COMPLETED = Response(completed=pb.CompletedEvent(image=b"image"))


class Dies:
    """Instead of the next response."""


class Stream:
    """What one replica says to one request."""

    def __init__(self, script: list[object]) -> None:
        self._items = self._say(script)
        self.cancelled = False

    async def _say(self, script: list[object]) -> AsyncIterator[object]:
        for item in script:
            match item:
                case Dies():
                    raise RayActorError
                case Exception():
                    raise item
                case Response():
                    yield Event(item.SerializeToString())
                case _:
                    yield item

    def __aiter__(self) -> AsyncIterator[object]:
        return self._items

    def __anext__(self) -> Any:
        return anext(self._items)

    def cancel(self) -> None:
        self.cancelled = True


class Replicas:
    """A deployment's handle; each request plays the next script."""

    def __init__(self, *scripts: list[object]) -> None:
        self._scripts = list(scripts)
        self.streams: list[Stream] = []
        self.requests: list[bytes] = []

    def options(self, **_: object) -> Replicas:
        return self

    def remote(self, request: bytes, **_: object) -> Stream:
        self.requests.append(request)
        self.streams.append(Stream(self._scripts.pop(0)))
        return self.streams[-1]


async def drawn(*scripts: list[object]) -> tuple[list[Response], ReplicaCalls, Replicas]:
    replicas = Replicas(*scripts)
    calls = ReplicaCalls(replicas)
    responses = [r async for r in calls.draw(pb.GenerateImageRequest(prompt="a boat", seed=7))]
    return responses, calls, replicas


async def reason(*scripts: list[object]) -> Reason:
    with pytest.raises(RequestError) as failed:
        await drawn(*scripts)
    return failed.value.reason


def kinds(responses: list[Response]) -> list[str | None]:
    return [response.WhichOneof("event") for response in responses]


async def test_a_image_of_one_replica() -> None:
    responses, calls, replicas = await drawn([TAKEN, QUEUED, STARTED, STEP, COMPLETED])
    assert kinds(responses) == ["queued", "started", "step", "completed"]
    assert calls.counts == Counts(requests=1, resident=1)
    assert replicas.streams[0].cancelled


async def test_another_goes_on_with_the_same_request() -> None:
    responses, calls, replicas = await drawn(
        [TAKEN, STARTED, Dies()], [Dies()], [TAKEN, QUEUED, STARTED, STEP, COMPLETED]
    )
    assert kinds(responses) == ["started", "step", "completed"]
    assert calls.counts.again == 2
    assert len(set(replicas.requests)) == 1


async def test_what_killed_two_that_drew_it_is_given_to_no_third() -> None:
    assert (
        await reason([TAKEN, STARTED, Dies()], [TAKEN, STARTED, STEP, Dies()])
        is Reason.REPLICA_LOST
    )


async def test_deaths_without_a_beginning_are_borne_longer() -> None:
    before: list[list[object]] = [[TAKEN, QUEUED, Dies()]] * (ATTEMPTS - 1)
    responses, _, _ = await drawn(*before, [TAKEN, STARTED, COMPLETED])
    assert kinds(responses)[-2:] == ["started", "completed"]
    assert await reason(*before, [Dies()]) is Reason.REPLICA_LOST


async def test_a_adapter_that_changed_in_between_is_no_silent_change() -> None:
    use = pb.AdapterUse(name="ink", weight=1, content_hash="b")
    other = Response(started=pb.StartedEvent(seed=7, steps=4, adapters=[use]))
    assert await reason([TAKEN, STARTED, Dies()], [TAKEN, other]) is Reason.REPLICA_LOST


async def test_what_a_replica_refuses_is_refused_once() -> None:
    error = RequestError(Reason.ADAPTER_NOT_FOUND, "no", metadata={"adapter": "inc"})
    with pytest.raises(RequestError) as failed:
        await drawn([TAKEN, Failed.of(error)])
    assert (failed.value.reason, failed.value.metadata) == (error.reason, error.metadata)


async def test_a_replica_that_fails_by_itself_is_an_internal_error() -> None:
    error = RayTaskError("draw", "traceback", ValueError("secret"))
    assert await reason([TAKEN, error]) is Reason.INTERNAL
