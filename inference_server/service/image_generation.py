"""`wuliart.v1.ImageGenerationService` of a single server.

Turns messages into the scheduler's requests, and the scheduler's events into messages.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
from google.protobuf.duration_pb2 import Duration
from grpc import aio

from inference_server import VERSION
from inference_server.logs import REQUEST_ID
from inference_server.scheduler import events
from inference_server.service.backend import Backend, BackendHolder
from inference_server.service.clients import CLIENT
from inference_server.service.image_calls import ImageServicer, Responses
from inference_server.service.model_description import embedded_description
from inference_server.service.validation import validate
from wuliart.v1 import image_generation_pb2 as pb
from wuliart_contract import limits
from wuliart_contract.status import Reason

Context = aio.ServicerContext[Any, Any]


class BackendImageServicer(ImageServicer):
    """Serves the calls with the backend of this process."""

    def __init__(self, backend: BackendHolder) -> None:
        self._backend = backend

    def accept(self, request: pb.GenerateImageRequest) -> Responses:
        """See `ImageServicer`."""
        return submit(self._backend.ready, request, CLIENT.get())

    def count_error(self, reason: Reason) -> None:
        """See `ImageServicer`."""
        self._backend.count_error(reason)

    async def GetServerInfo(
        self, request: pb.GetServerInfoRequest, context: Context
    ) -> pb.GetServerInfoResponse:
        """See the .proto file."""
        return server_info(self._backend.ready)


def submit(backend: Backend, request: pb.GenerateImageRequest, client: str) -> Responses:
    """Validates a request and submits it to the scheduler.

    Args:
        backend: generates the image.
        request: the message of the call.
        client: identity of the client, for the fair queue.

    Returns:
        The responses; closing them cancels the request.

    Raises:
        RequestError: the request is rejected.
    """
    scheduler = backend.scheduler
    running = scheduler.submit(validate(request, backend.counts), REQUEST_ID.get(), client)

    async def responses() -> Responses:
        try:
            async for event in running.events():
                yield message_of(event)
        finally:
            scheduler.cancel(running)

    return responses()


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromTimedelta(timedelta(seconds=seconds))
    return duration


def message_of(event: events.Event) -> pb.GenerateImageResponse:
    """Returns the message of an event."""
    match event:
        case events.Queued():
            return pb.GenerateImageResponse(queued=pb.QueuedEvent(position=event.position))
        case events.Started():
            return pb.GenerateImageResponse(started=_started(event))
        case events.StepDone():
            return pb.GenerateImageResponse(step=_step(event))
        case events.Completed():
            return pb.GenerateImageResponse(completed=_completed(event))


def _started(event: events.Started) -> pb.StartedEvent:
    return pb.StartedEvent(
        seed=event.seed,
        steps=event.steps,
        adapters=[
            pb.AdapterUse(
                name=use.name,
                weight=use.weight,
                content_hash=use.content_hash,
                generation=use.generation,
            )
            for use in event.adapters
        ],
        prompt_tokens=event.prompt_tokens,
        prompt_tokens_ignored=event.prompt_tokens_ignored,
        skipped_adapters=[
            pb.SkippedAdapter(name=s.name, reason=s.reason.value, message=s.message)
            for s in event.skipped
        ],
    )


def _step(event: events.StepDone) -> pb.StepEvent:
    message = pb.StepEvent(
        step=event.step, total_steps=event.total_steps, elapsed=_duration(event.elapsed)
    )
    if event.preview is not None:
        message.preview.image = event.preview.image
        message.preview.media_type = limits.MEDIA_TYPE
        message.preview.width = event.preview.width
        message.preview.height = event.preview.height
    return message


def _completed(event: events.Completed) -> pb.CompletedEvent:
    t = event.timings
    return pb.CompletedEvent(
        image=event.image,
        media_type=limits.MEDIA_TYPE,
        width=limits.IMAGE_SIZE,
        height=limits.IMAGE_SIZE,
        seed=event.seed,
        timings=pb.StageTimings(
            queued=_duration(t.queued),
            text_encode=_duration(t.text_encode),
            denoise=_duration(t.denoise),
            decode=_duration(t.decode),
            jpeg_encode=_duration(t.jpeg_encode),
            total=_duration(t.total),
        ),
    )


def server_info(backend: Backend) -> pb.GetServerInfoResponse:
    """Returns the description of the server at this moment."""
    model = backend.engine.model
    parameters = backend.adapters.segment.layout.parameters
    on_gpu = model.device.type == "cuda"
    schedules, counts = model.schedules.sigmas, backend.counts
    return pb.GetServerInfoResponse(
        version=VERSION,
        model=pb.ModelInfo(
            name=model.name,
            embedded=backend.embedded,
            transformer_parameters=model.parameters,
            turbo_lora=model.turbo_lora,
            schedules=[pb.NoiseSchedule(sigmas=schedules[n]) for n in sorted(schedules)],
            schedule=str(model.schedule.schedule),
            schedule_reason=model.schedule.why,
            warnings=[
                *([model.schedule.warning] if model.schedule.warning else []),
                *(remark.text for remark in model.remarks if remark.warning),
            ],
            notes=[remark.text for remark in model.remarks if not remark.warning],
            description=embedded_description() if backend.embedded else None,
        ),
        device=pb.DeviceInfo(
            kind=model.device.type,
            name=torch.cuda.get_device_name(model.device) if on_gpu else "CPU",
            dtype=str(model.dtype).removeprefix("torch."),
        ),
        limits=pb.Limits(
            width=limits.IMAGE_SIZE,
            height=limits.IMAGE_SIZE,
            jpeg_quality=limits.JPEG_QUALITY,
            min_steps=counts[0],
            max_steps=counts[-1],
            default_steps=counts[-1],
            max_prompt_characters=limits.MAX_PROMPT_CHARACTERS,
            max_prompt_tokens=limits.MAX_PROMPT_TOKENS,
            max_adapters=min(limits.MAX_ADAPTERS, backend.adapters.slots.resident_limit),
            max_adapter_weight=limits.MAX_ADAPTER_WEIGHT,
            max_adapter_rank=parameters.max_rank,
            adapter_slots=backend.adapters.slots.resident_limit,
            queue_capacity=backend.scheduler.capacity,
        ),
        segments=[
            pb.MemorySegment(
                name=segment.name,
                size_bytes=segment.size_bytes,
                used_bytes=segment.used_bytes,
                location=segment.location,
            )
            for segment in backend.segments()
        ],
        lora_manager_connected=backend.adapters.manager_attached,
        queue_length=backend.scheduler.queue_length,
    )
