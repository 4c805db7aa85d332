"""What the client of one image has been told, so that another replica can go on from there.

Owns which events of a second generating are news. Knows nothing of replicas, nor of what is
generated.
"""

from __future__ import annotations

from wuliart.v1 import image_generation_pb2 as pb


class OtherImageError(Exception):
    """What is generated now is not what the client was told: an adapter's file has changed in
    between.
    """


class Telling:
    """Of one call: each event is further than the last, however often the image is begun."""

    def __init__(self) -> None:
        self._started: pb.StartedEvent | None = None
        self._step = 0

    def is_news(self, response: pb.GenerateImageResponse) -> bool:
        """Whether the client is to be told.

        Raises:
            OtherImageError: it would contradict what the client was told.
        """
        match response.WhichOneof("event"):
            case "queued":
                return self._started is None
            case "started":
                first, self._started = self._started, _comparable(response.started)
                if first is not None and first != self._started:
                    raise OtherImageError
                return first is None
            case "step":
                last, self._step = self._step, max(self._step, response.step.step)
                return response.step.step > last
            case _:
                return True


def _comparable(started: pb.StartedEvent) -> pb.StartedEvent:
    """Without what each replica counts for itself."""
    copy = pb.StartedEvent()
    copy.CopyFrom(started)
    for adapter in copy.adapters:
        adapter.ClearField("generation")
    return copy
