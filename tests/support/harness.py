"""The inference server inside a test's event loop, on temporary Unix sockets.

Everything of `inference_server.server` is real (store, segment, scheduler, both gRPC listeners,
descriptor socket) except the engine.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from grpc import aio

from inference_server.adapters.binder import Binder
from inference_server.adapters.segment import AdapterSegment
from inference_server.adapters.store import AdapterStore
from inference_server.model.schedule import FAMILIES, ScheduleTable
from inference_server.model.schedule_choice import ChosenSchedule
from inference_server.network import Network
from inference_server.scheduler.device_thread import device_thread
from inference_server.scheduler.image_request import ImageRequest
from inference_server.scheduler.running_request import RunningRequest
from inference_server.scheduler.scheduler import Scheduler
from inference_server.service.adapter_service import AdapterServicer
from inference_server.service.backend import Backend, BackendHolder
from inference_server.service.descriptor_socket import DescriptorSocket
from inference_server.service.image_generation import BackendImageServicer
from inference_server.service.listeners import ControlListener, PublicListener
from inference_server.service.recipe import describer
from inference_server.service.segment_service import SegmentServicer
from tests.support.fakes import DEADLINE, FakeEngine, planned_memory, until
from wuliart.v1.adapter_pb2_grpc import AdapterServiceStub
from wuliart.v1.image_generation_pb2 import GenerateImageRequest
from wuliart.v1.image_generation_pb2_grpc import ImageGenerationServiceStub
from wuliart_contract.limits import MAX_RESPONSE_BYTES
from wuliart_lora.slot_layout import LayoutParameters, SegmentLayout

LAYOUT = SegmentLayout(
    LayoutParameters(
        blocks=1, width=32, mlp_width=64, image_features=16, output_features=16,
        text_features=24, head_features=8, modulation_rows=4, max_rank=8, dtype="float32",
    )
)  # fmt: skip
COUNTS = FAMILIES["lightning"].counts
CONDITIONING = np.linspace(-1, 1, 4 * 32, dtype="<f4").reshape(4, 32)


class WatchedScheduler(Scheduler):
    """A scheduler that records the requests it accepted, so that tests see which were cancelled."""

    def __init__(self, engine: FakeEngine, binder: Binder, capacity: int) -> None:
        super().__init__(
            engine,
            binder,
            device_thread(),
            capacity=capacity,
            describe=describer("fake", "lightning"),
        )
        self.submitted: list[RunningRequest] = []

    def submit(
        self, request: ImageRequest, request_id: str = "", client: str = ""
    ) -> RunningRequest:
        running = super().submit(request, request_id, client)
        self.submitted.append(running)
        return running


@dataclass
class InProcessServer:
    """A server's parts and its addresses."""

    directory: Path
    engine: FakeEngine
    store: AdapterStore
    scheduler: WatchedScheduler
    public: PublicListener
    control: ControlListener
    descriptors: DescriptorSocket
    holder: BackendHolder
    _channels: list[aio.Channel] = field(default_factory=list)

    @property
    def stages(self) -> list[str]:
        """The stages that the engine was called for, in order."""
        return [call.stage for call in self.engine.calls]

    @property
    def prompts(self) -> list[str]:
        """The prompts of the images that were begun, in order."""
        return [image.text for image in self.engine.images]

    @property
    def target(self) -> str:
        return f"unix:{self.directory}/public.sock"

    @property
    def control_target(self) -> str:
        return f"unix:{self.directory}/control.sock"

    def channel(self, target: str | None = None) -> aio.Channel:
        """Opens a connection of its own, without retries; the server closes it at its end."""
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
        """Starts a GenerateImage call on a connection of its own."""
        request = GenerateImageRequest(prompt=prompt, **fields)
        return self.images().GenerateImage(request, timeout=DEADLINE)

    def state_of(self, name: str) -> str:
        """Returns the adapter's state in the catalog; "none" if it is not there."""
        adapter = self.store.catalog.get(name)
        return "none" if adapter is None else adapter.state.value

    async def accepted(self, count: int) -> None:
        """Waits until the scheduler has accepted that many requests since the start."""
        await until(lambda: len(self.scheduler.submitted) == count)

    async def let_go(self, n: int) -> None:
        """Waits until the service has cancelled the n-th request, whose client is gone."""
        await until(lambda: self.scheduler.submitted[n].cancelled)

    async def become_ready(self) -> None:
        # As `server.serve` does it; only GetServerInfo reads the model.
        self.holder.fill(Backend(self.engine, self.store, self.scheduler, False, COUNTS))  # type: ignore[arg-type]
        self.public.ready()

    async def drain(self, grace: float) -> None:
        self.public.draining()
        await self.scheduler.drain(grace)

    async def stop(self) -> None:
        self.engine.free()
        await self.scheduler.drain(0)
        for channel in self._channels:
            await channel.close()
        await self.public.stop(0)
        await self.control.stop()
        await self.descriptors.stop()
        os.close(self.store.segment.descriptor)


@asynccontextmanager
async def running_server(
    *,
    capacity: int = 8,
    resident_limit: int = 2,
    ready: bool = True,
    pinned: tuple[str, ...] = (),
    skip_bad: bool = False,
    network: Network | None = None,
) -> AsyncIterator[InProcessServer]:
    """Runs a server in this event loop; with `ready` False it stays in the state of starting."""
    with tempfile.TemporaryDirectory(prefix="wuliart-") as name:
        directory = Path(name)
        engine = FakeEngine()
        segment = AdapterSegment(LAYOUT, resident_limit + 1, torch.device("cpu"))
        store = AdapterStore(segment, resident_limit, pinned)
        scheduler = WatchedScheduler(engine, Binder(store, skip_bad), capacity)
        holder = BackendHolder()
        descriptors = DescriptorSocket(
            directory / "descriptors.sock", lambda: segment.descriptor, store.writer_is_gone
        )
        control = ControlListener(
            directory / "control.sock", SegmentServicer(store, descriptors, CONDITIONING.tobytes())
        )
        where = network or Network(f"unix:{directory}/public.sock")
        public = PublicListener(
            where,
            images=BackendImageServicer(holder),
            adapters=AdapterServicer(holder.adapters),
            on_reject=holder.count_error,
        )
        server = InProcessServer(
            directory, engine, store, scheduler, public, control, descriptors, holder
        )
        await public.start()
        descriptors.start()
        await control.start()
        try:
            if ready:
                await server.become_ready()
            yield server
        finally:
            await server.stop()


def name_model(server: InProcessServer, name: str) -> None:
    """Gives the fake engine the model that GetServerInfo describes."""
    server.engine.model = SimpleNamespace(  # type: ignore[attr-defined]
        name=name,
        parameters=1,
        turbo_lora="",
        device=torch.device("cpu"),
        dtype=torch.float32,
        schedule=ChosenSchedule(FAMILIES["lightning"], "a test's"),
        schedules=ScheduleTable.build(FAMILIES["lightning"]),
        remarks=(),
        **planned_memory(),
    )
