"""Responses of an image that is generated twice: each is sent once, or the image has changed."""

from __future__ import annotations

import pytest

from inference_server.ray_app.resumption import ImageChangedError, Resumption
from wuliart.v1 import image_generation_pb2 as pb

Response = pb.GenerateImageResponse


def queued(position: int) -> Response:
    return Response(queued=pb.QueuedEvent(position=position))


def started(content_hash: str = "a", generation: int = 1, steps: int = 4) -> Response:
    use = pb.AdapterUse(name="ink", weight=1, content_hash=content_hash, generation=generation)
    return Response(started=pb.StartedEvent(seed=7, steps=steps, adapters=[use]))


def step(n: int) -> Response:
    return Response(step=pb.StepEvent(step=n, total_steps=4))


COMPLETED = Response(completed=pb.CompletedEvent(image=b"image"))


def sent(*responses: Response) -> list[Response]:
    resumption = Resumption()
    return [response for response in responses if resumption.is_new(response)]


def test_one_generation_is_sent_as_it_is() -> None:
    whole = [queued(2), queued(1), started(), step(1), step(2), COMPLETED]
    assert sent(*whole) == whole


def test_a_second_generation_continues_after_the_first() -> None:
    first = [queued(1), started(generation=3), step(1), step(2)]
    second = [queued(4), queued(1), started(generation=9), step(1), step(2), step(3), COMPLETED]
    assert sent(*first, *second) == [*first, step(3), COMPLETED]


def test_a_third_generation_continues_too() -> None:
    again = [started(), step(1), step(2)]
    assert sent(*again, started(), step(1), *again, step(3)) == [*again, step(3)]


def test_an_image_that_had_not_started_is_sent_from_its_start() -> None:
    assert sent(queued(2), queued(1), started()) == [queued(2), queued(1), started()]


@pytest.mark.parametrize("other", [started(content_hash="b"), started(steps=3)])
def test_a_changed_image_is_an_error(other: Response) -> None:
    resumption = Resumption()
    assert resumption.is_new(started())
    with pytest.raises(ImageChangedError):
        resumption.is_new(other)
