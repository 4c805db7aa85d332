"""Which responses of a second generation the client of an image has not received yet."""

from __future__ import annotations

from wuliart.v1 import image_generation_pb2 as pb


class ImageChangedError(Exception):
    """The second generation differs from what the client has received: an adapter has changed."""


class Resumption:
    """The progress of one call, over however many replicas generate its image."""

    def __init__(self) -> None:
        self._started: pb.StartedEvent | None = None
        self._step = 0

    def is_new(self, response: pb.GenerateImageResponse) -> bool:
        """Returns True if the client is to receive the response.

        Raises:
            ImageChangedError: the response contradicts what the client has received.
        """
        match response.WhichOneof("event"):
            case "queued":
                return self._started is None
            case "started":
                first, self._started = self._started, _comparable(response.started)
                if first is not None and first != self._started:
                    raise ImageChangedError
                return first is None
            case "step":
                last, self._step = self._step, max(self._step, response.step.step)
                return response.step.step > last
            case _:
                return True


def _comparable(started: pb.StartedEvent) -> pb.StartedEvent:
    """Returns a copy without the generations, which each replica counts for itself."""
    copy = pb.StartedEvent()
    copy.CopyFrom(started)
    for adapter in copy.adapters:
        adapter.ClearField("generation")
    return copy
