"""A scheduler over fakes, and clients that write down what they hear."""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType

from inference_server.adapters.records import AdapterWeight
from inference_server.scheduler.device_thread import device_thread
from inference_server.scheduler.events import Completed, Event, ImageRequest, Queued
from inference_server.scheduler.request import Job
from inference_server.scheduler.scheduler import Scheduler
from tests.support.fakes import DEADLINE, FakeBinder, FakeEngine


class Client:
    """Reads one job's events, as the service does, until they end or it leaves."""

    def __init__(self, scheduler: Scheduler, job: Job) -> None:
        self.request = job.request
        self.seed = job.request.seed
        self.events: list[Event] = []
        self.error: Exception | None = None
        self._scheduler = scheduler
        self._job = job
        self._reading = asyncio.create_task(self._read(), name="client")

    async def _read(self) -> None:
        try:
            async for event in self._job.events():
                self.events.append(event)
        except Exception as error:
            self.error = error

    def leave(self) -> None:
        """Hangs up."""
        self._reading.cancel()
        self._scheduler.cancel(self._job)

    async def ended(self) -> None:
        """Returns after the last event; a stream that never ends is an error."""
        await asyncio.wait_for(asyncio.shield(self._reading), DEADLINE)

    @property
    def positions(self) -> list[int]:
        """Every position heard."""
        return [event.position for event in self.events if isinstance(event, Queued)]

    @property
    def image(self) -> Completed:
        """The last event, which must be the image."""
        assert isinstance(self.events[-1], Completed), self.error
        return self.events[-1]


class Bench:
    """A scheduler that serves; leaving the block frees what is held and drains it."""

    def __init__(self, capacity: int = 3, batch: int = 1, log_prompts: bool = False) -> None:
        self.engine = FakeEngine()
        self.binder = FakeBinder()
        self.scheduler = Scheduler(
            self.engine,
            self.binder,
            capacity,
            device_thread(),
            lambda request, uses: "",
            batch,
            log_prompts,
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
        """Nothing is held any more."""
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
        """Drains the scheduler meanwhile."""
        return asyncio.create_task(self.scheduler.drain(grace), name="client")

    def new_threads(self) -> set[threading.Thread]:
        """Threads that run now and did not before."""
        return set(threading.enumerate()) - self._threads

    @staticmethod
    def tasks() -> set[str]:
        """Names of the tasks that live, the test's own and the clients' not counted."""
        mine = asyncio.current_task()
        tasks = {task for task in asyncio.all_tasks() if task is not mine}
        return {task.get_name() for task in tasks if task.get_name() != "client"}
