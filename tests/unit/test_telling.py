"""An image that is generated twice is told once, or not at all if it became another."""

from __future__ import annotations

import pytest

from inference_server.ray_app.resumption import OtherImageError, Telling
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


def told(*responses: Response) -> list[Response]:
    telling = Telling()
    return [response for response in responses if telling.is_news(response)]


def test_one_drawing_is_told_as_it_is() -> None:
    whole = [queued(2), queued(1), started(), step(1), step(2), COMPLETED]
    assert told(*whole) == whole


def test_a_second_drawing_goes_on_where_the_first_ended() -> None:
    first = [queued(1), started(generation=3), step(1), step(2)]
    second = [queued(4), queued(1), started(generation=9), step(1), step(2), step(3), COMPLETED]
    assert told(*first, *second) == [*first, step(3), COMPLETED]


def test_a_third_is_no_different() -> None:
    again = [started(), step(1), step(2)]
    assert told(*again, started(), step(1), *again, step(3)) == [*again, step(3)]


def test_a_image_that_had_not_begun_is_told_from_its_start() -> None:
    assert told(queued(2), queued(1), started()) == [queued(2), queued(1), started()]


@pytest.mark.parametrize("other", [started(content_hash="b"), started(steps=3)])
def test_another_image_is_none(other: Response) -> None:
    telling = Telling()
    assert telling.is_news(started())
    with pytest.raises(OtherImageError):
        telling.is_news(other)
