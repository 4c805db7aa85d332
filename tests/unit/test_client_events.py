"""Order and content of the events that the client makes from messages."""

from __future__ import annotations

import pytest

from tests.support.fake_image_server import JPEG, completed, queued, started, step, whole_image
from wuliart.v1.adapter_pb2 import WatchAdaptersResponse
from wuliart.v1.image_generation_pb2 import GenerateImageResponse
from wuliart_client import Completed, ProtocolError, Queued, Started, Step
from wuliart_client._adapters import WatchReader
from wuliart_client._events import GenerationReader


def test_a_whole_stream_becomes_typed_events():
    reader = GenerationReader()
    events = [reader.read(response) for response in whole_image(seed=2**64 - 1)]
    reader.end()
    assert [type(event) for event in events] == [
        Queued, Queued, Started, Step, Step, Step, Step, Completed,
    ]  # fmt: skip
    assert events[0] == Queued(2)
    assert events[3] == Step(1, 4, 0.1, None)
    image = events[-1].image
    assert (image.data, image.seed, image.steps) == (JPEG, 2**64 - 1, 4)
    assert image.adapters == events[2].adapters
    assert image.adapters[0].weight == 0.8  # not 0.800000011920929
    assert image.timings.denoise == 1.5
    assert image.timings.total == 2.0
    assert "xff" not in repr(image)


@pytest.mark.parametrize(
    "responses",
    [
        [step(1)],
        [completed()],
        [started(), started()],
        [started(), queued(1)],
        [started(), completed(), step(1)],
        [GenerateImageResponse()],
    ],
    ids=["step first", "completed first", "two starts", "late queued", "after the end", "unknown"],
)
def test_an_event_out_of_order_is_a_protocol_error(responses):
    reader = GenerationReader()
    for response in responses[:-1]:
        reader.read(response)
    with pytest.raises(ProtocolError):
        reader.read(responses[-1])


def test_a_stream_without_a_image_is_a_protocol_error():
    reader = GenerationReader()
    reader.read(started())
    with pytest.raises(ProtocolError, match="before the image"):
        reader.end()


def test_an_unknown_watch_event_is_a_protocol_error():
    with pytest.raises(ProtocolError, match="update"):
        WatchReader().read(WatchAdaptersResponse(revision=1))
