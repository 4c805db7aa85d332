"""A scheduler over fakes, and clients that record their events."""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType

from inference_server.adapters.records import AdapterWeight
from inference_server.scheduler.device_thread import device_thread
from inference_server.scheduler.events import Completed, Event, Queued
from inference_server.scheduler.image_request import ImageRequest
from inference_server.scheduler.running_request import RunningRequest
from inference_server.scheduler.scheduler import Scheduler
from tests.support.fake_binder import FakeBinder
from tests.support.fakes import DEADLINE, FakeEngine


class Client:
    """Reads one request's events, as the service does, until they end or it leaves."""

    def __init__(self, scheduler: Scheduler, running: RunningRequest) -> None:
        self.request = running.request
        self.seed = running.request.seed
        self.events: list[Event] = []
        self.error: Exception | None = None
        self._scheduler = scheduler
        self._running = running
        self._reading = asyncio.create_task(self._read(), name="client")

    async def _read(self) -> None:
        try:
            async for event in self._running.events():
                self.events.append(event)
        except Exception as error:
            self.error = error

    def leave(self) -> None:
        """Ends the call."""
        self._reading.cancel()
        self._scheduler.cancel(self._running)

    async def ended(self) -> None:
        """Waits for the last event; raises TimeoutError if there is none."""
        await asyncio.wait_for(asyncio.shield(self._reading), DEADLINE)

    @property
    def positions(self) -> list[int]:
        """All reported queue positions."""
        return [event.position for event in self.events if isinstance(event, Queued)]

    @property
    def image(self) -> Completed:
        """The last event; fails the test if it is not the image."""
        assert isinstance(self.events[-1], Completed), self.error
        return self.events[-1]


class Bench:
    """A scheduler that serves; leaving the block releases the fakes and drains it."""

    def __init__(self, capacity: int = 3, batch: int = 1, log_prompts: bool = False) -> None:
        self.engine = FakeEngine()
        self.binder = FakeBinder()
        self.scheduler = Scheduler(
            self.engine,
            self.binder,
            device_thread(),
            capacity=capacity,
            describe=lambda request, uses: "",
            max_batch=batch,
            log_prompts=log_prompts,
        )
        self._threads = set(threading.enumerate())

    async def __aenter__(self) -> Bench:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.free()
        await self.scheduler.drain(DEADLINE)

    def free(self) -> None:
        """Releases everything that the fakes hold."""
        self.engine.free()
        self.binder.free()

    def submit(
        self,
        seed: int,
        *,
        prompt: str = "a cat",
        steps: int = 4,
        adapters: tuple[AdapterWeight, ...] = (),
        preview: bool = False,
        request_id: str = "",
    ) -> Client:
        request = ImageRequest(prompt, seed, steps, adapters, preview)
        return Client(self.scheduler, self.scheduler.submit(request, request_id))

    def drain(self, grace: float) -> asyncio.Task[None]:
        """Drains the scheduler in a task."""
        return asyncio.create_task(self.scheduler.drain(grace), name="client")

    def new_threads(self) -> set[threading.Thread]:
        """Threads that were started since the bench was created."""
        return set(threading.enumerate()) - self._threads

    @staticmethod
    def tasks() -> set[str]:
        """Names of the running tasks, without the test's own and the clients'."""
        mine = asyncio.current_task()
        tasks = {task for task in asyncio.all_tasks() if task is not mine}
        return {task.get_name() for task in tasks if task.get_name() != "client"}
