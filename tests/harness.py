"""The inference server inside a test's event loop, on temporary Unix sockets.

Everything of `inference_server.server` is real (store, segment, scheduler, both gRPC listeners,
descriptor socket) except the engine. Owns wiring, teardown and the reading of failures; knows
nothing of what a test asserts.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import torch
from google.rpc import error_details_pb2
from grpc import aio
from grpc_status import rpc_status

from inference_server.adapters.segment import AdapterSegment
from inference_server.adapters.store import AdapterStore
from inference_server.scheduler.events import DrawRequest
from inference_server.scheduler.job import Job
from inference_server.scheduler.scheduler import Scheduler
from inference_server.service.backend import Backend, BackendSlot
from inference_server.service.descriptor_socket import DescriptorSocket
from inference_server.service.listeners import ControlListener, PublicListener
from inference_server.service.segment import Segment
from wuliart.contract.layout import LayoutParameters, SegmentLayout
from wuliart.contract.limits import MAX_RESPONSE_BYTES
from wuliart.v1.adapter_pb2_grpc import AdapterServiceStub
from wuliart.v1.image_generation_pb2 import GenerateImageRequest, GenerateImageResponse
from wuliart.v1.image_generation_pb2_grpc import ImageGenerationServiceStub

PATIENCE = 20.0
"""Seconds until a condition that never comes true fails its test."""

LAYOUT = SegmentLayout(
    LayoutParameters(
        blocks=1, width=32, mlp_width=64, image_features=16, output_features=16,
        text_features=24, modulation_rows=4, max_rank=8, dtype="float32",
    )
)  # fmt: skip
CONDITIONING = np.linspace(-1, 1, 4 * 32, dtype="<f4").reshape(4, 32)


@dataclass
class Prompt:
    text: str
    tokens: int = 7
    tokens_ignored: int = 3


@dataclass
class Drawing:
    prompt: Prompt
    seed: int
    adapters: tuple[Any, ...]
    step: int = 0


class HeldEngine:
    """Draws a plain grey and writes down what it is asked for; each step can be held.

    `calls` has one word for each stage as it begins, in the order in which the device thread ran
    them: "encode", "begin", "step", "preview", "decode".
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.prompts: list[str] = []
        self.drawings: list[Drawing] = []
        self.failures: dict[tuple[str, int], Exception] = {}
        """(stage, how many times it was begun) -> what it raises."""
        self._pass = threading.Semaphore(0)
        self._held = False

    def hold(self) -> None:
        """From now on each step waits for `let` or `release`."""
        self._held = True

    def let(self, steps: int) -> None:
        self._pass.release(steps)

    def release(self) -> None:
        self._held = False
        self._pass.release(1000)

    def encode(self, prompt: str) -> Prompt:
        self._begin("encode")
        self.prompts.append(prompt)
        return Prompt(prompt)

    def begin(self, prompt: Prompt, seed: int, steps: int, adapters: Sequence[Any]) -> Drawing:
        self._begin("begin")
        self.drawings.append(Drawing(prompt, seed, tuple(adapters)))
        return self.drawings[-1]

    def step(self, drawing: Drawing) -> None:
        self._begin("step")
        if self._held:
            self._pass.acquire()
        drawing.step += 1

    def preview(self, drawing: Drawing) -> torch.Tensor:
        self._begin("preview")
        return torch.full((128, 96, 3), 100 + drawing.step, dtype=torch.uint8)

    def decode(self, drawing: Drawing) -> torch.Tensor:
        self._begin("decode")
        return torch.full((1024, 1024, 3), 128, dtype=torch.uint8)

    def _begin(self, stage: str) -> None:
        self.calls.append(stage)
        if failure := self.failures.get((stage, self.calls.count(stage))):
            raise failure


class WatchedScheduler(Scheduler):
    """Lets a test see which calls the service has let go of."""

    def __init__(self, engine: HeldEngine, store: AdapterStore, capacity: int) -> None:
        super().__init__(engine, store, capacity)
        self.submitted: list[Job] = []

    def submit(self, request: DrawRequest) -> Job:
        job = super().submit(request)
        self.submitted.append(job)
        return job


@dataclass
class InProcessServer:
    """A server's parts and where to reach it."""

    directory: Path
    engine: HeldEngine
    store: AdapterStore
    scheduler: WatchedScheduler
    public: PublicListener
    control: ControlListener
    descriptors: DescriptorSocket
    slot: BackendSlot
    _channels: list[aio.Channel] = field(default_factory=list)

    @property
    def target(self) -> str:
        return f"unix:{self.directory}/public.sock"

    @property
    def control_target(self) -> str:
        return f"unix:{self.directory}/control.sock"

    def channel(self, target: str | None = None) -> aio.Channel:
        """A connection of its own, without retries; closed with the server."""
        options = [
            ("grpc.enable_retries", 0),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", MAX_RESPONSE_BYTES),
        ]
        channel = aio.insecure_channel(target or self.target, options=options)
        self._channels.append(channel)
        return channel

    def images(self) -> Any:
        return ImageGenerationServiceStub(self.channel())

    def adapters(self) -> Any:
        return AdapterServiceStub(self.channel())

    def generate(self, prompt: str = "a lighthouse", **fields: Any) -> Any:
        """A GenerateImage call on a connection of its own."""
        request = GenerateImageRequest(prompt=prompt, **fields)
        return self.images().GenerateImage(request, timeout=PATIENCE)

    async def become_ready(self) -> None:
        # As `server.serve` does it; the model is only looked at by GetServerInfo.
        self.slot.fill(Backend(self.engine, self.store, self.scheduler, False))  # type: ignore[arg-type]
        await self.public.ready()

    async def drain(self, grace: float) -> None:
        await self.public.draining()
        await self.scheduler.drain(grace)

    async def stop(self) -> None:
        self.engine.release()
        await self.scheduler.drain(0)
        for channel in self._channels:
            await channel.close()
        await self.public.stop(0)
        await self.control.stop()
        await self.descriptors.stop()
        os.close(self.store.segment.descriptor)


@asynccontextmanager
async def running_server(
    *, capacity: int = 8, resident_limit: int = 2, ready: bool = True
) -> AsyncIterator[InProcessServer]:
    """A server of this loop; with `ready` False it is still starting."""
    with tempfile.TemporaryDirectory(prefix="wuliart-") as name:
        directory = Path(name)
        engine = HeldEngine()
        segment = AdapterSegment(LAYOUT, resident_limit + 1, torch.device("cpu"))
        store = AdapterStore(segment, resident_limit)
        scheduler = WatchedScheduler(engine, store, capacity)
        slot = BackendSlot()
        descriptors = DescriptorSocket(
            directory / "descriptors.sock", segment.descriptor, store.writer_is_gone
        )
        control = ControlListener(
            directory / "control.sock", Segment(store, descriptors, CONDITIONING.tobytes())
        )
        public = PublicListener(f"unix:{directory}/public.sock", slot)
        server = InProcessServer(
            directory, engine, store, scheduler, public, control, descriptors, slot
        )
        await public.start()
        scheduler.start()
        descriptors.start()
        await control.start()
        try:
            if ready:
                await server.become_ready()
            yield server
        finally:
            await server.stop()


async def until(condition: Callable[[], object]) -> None:
    """Waits for a condition with a generous deadline."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 (any state may be asked for)
            await asyncio.sleep(0.005)


async def rest_of(call: Any) -> list[Any]:
    """The responses of a stream that were not read yet; raises how it ended."""
    # Not `async for`: grpc.aio takes it only for calls that nobody has read from before.
    responses = []
    while (response := await call.read()) is not aio.EOF:
        responses.append(response)
    return responses


async def kinds(call: Any) -> list[str]:
    """What the rest of a GenerateImage call consists of."""
    return [response.WhichOneof("event") for response in await rest_of(call)]


async def read_until(call: Any, kind: str) -> GenerateImageResponse:
    """The next event of that kind."""
    while (response := await call.read()) is not aio.EOF:
        if response.WhichOneof("event") == kind:
            return response  # type: ignore[no-any-return]
    raise AssertionError(f"the stream ended without {kind!r}")


@dataclass(frozen=True)
class Failure:
    """A status with its details unpacked."""

    code: grpc.StatusCode
    message: str
    reason: str
    metadata: dict[str, str]
    violations: dict[str, str]
    """Field -> description; a field that is listed twice fails."""
    bad_requests: int
    retry_seconds: float | None


async def failure_of(call: Any) -> Failure:
    """How a call of either kind fails; fails the test if it does not."""
    try:
        answer = await rest_of(call) if hasattr(call, "read") else await call
        raise AssertionError(f"did not fail but answered {str(answer)[:200]}")
    except aio.AioRpcError as error:
        return read_failure(error)


def read_failure(error: aio.AioRpcError) -> Failure:
    status = rpc_status.from_call(error)
    assert status is not None, f"no google.rpc.Status in {error.code()}: {error.details()}"
    info, bad, retry = (
        _unpacked(status, kind)
        for kind in (
            error_details_pb2.ErrorInfo,
            error_details_pb2.BadRequest,
            error_details_pb2.RetryInfo,
        )
    )
    assert len(info) == 1 and info[0].domain == "wuliart"
    listed = [v for b in bad for v in b.field_violations]
    violations = {v.field: v.description for v in listed}
    assert len(violations) == len(listed), f"a field is listed twice: {listed}"
    return Failure(
        error.code(),
        error.details() or "",
        info[0].reason,
        dict(info[0].metadata),
        violations,
        len(bad),
        retry[0].retry_delay.ToNanoseconds() / 1e9 if retry else None,
    )


def _unpacked(status: Any, kind: Any) -> list[Any]:
    found = []
    for detail in status.details:
        message = kind()
        if detail.Unpack(message):
            found.append(message)
    return found
