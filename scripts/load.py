"""Calls to a server or a fleet, their events' times, and their outcomes.

The calls do not retry, so that every failure counts.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from wuliart.v1.image_generation_pb2 import AdapterWeight, GenerateImageRequest
from wuliart.v1.image_generation_pb2_grpc import ImageGenerationServiceStub
from wuliart_contract.limits import MAX_RESPONSE_BYTES

DEADLINE = 60.0

OPTIONS = (
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", MAX_RESPONSE_BYTES),
)


@dataclass
class Call:
    """Times of one call's events, in seconds since it began."""

    steps: list[float] = field(default_factory=list)
    total: float = 0.0
    left: float = 0.0
    """Time of the cancellation, by the monotonic clock."""


_CHANNELS: dict[str, grpc.Channel] = {}


def _stub(address: str) -> Any:
    if address not in _CHANNELS:
        _CHANNELS[address] = grpc.insecure_channel(address, options=OPTIONS)
    return ImageGenerationServiceStub(_CHANNELS[address])


def call(address: str, leave_after: int | None = None) -> Call:
    """Requests one image of four steps.

    Args:
        address: of the server.
        leave_after: number of steps after which the call is cancelled; None waits for the image.
    """
    request = GenerateImageRequest(prompt="a lighthouse", seed=1, steps=4, omit_recipe=True)
    began, timed = time.perf_counter(), Call()
    stream = _stub(address).GenerateImage(request, timeout=DEADLINE)
    for event in stream:
        now = time.perf_counter() - began
        if event.HasField("step"):
            timed.steps.append(now)
            if leave_after == len(timed.steps):
                break
        elif event.HasField("completed"):
            timed.total = now
    timed.left = time.monotonic()
    stream.cancel()
    return timed


def ending(error: Any) -> str:
    """Returns an error's code and reason as text."""
    status = rpc_status.from_call(error)
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return f"{error.code().name} {info.reason}"
    return f"{error.code().name}: {error.details()}"


def _generate(stub: Any, adapters: Sequence[str]) -> str:
    request = GenerateImageRequest(
        prompt="a lighthouse", steps=4, adapters=[AdapterWeight(name=name) for name in adapters]
    )
    last = ""
    try:
        for event in stub.GenerateImage(request, timeout=DEADLINE):
            last = event.WhichOneof("event")
    except grpc.RpcError as error:
        return ending(error)
    return str(last)


class Load:
    """Clients that request one image after another for as long as the context lasts.

    Args:
        address: of the server.
        clients: number of clients, each with a connection of its own.
        adapters: names, of which each image uses a random one; empty for none.
    """

    def __init__(self, address: str, clients: int, adapters: Sequence[str] = ()) -> None:
        self._address = address
        self._adapters = adapters
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]
        self.endings: Counter[str] = Counter()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def rate(self, seconds: float) -> float:
        """Returns the images per second during the next `seconds`."""
        before, began = self.endings["completed"], time.monotonic()
        time.sleep(seconds)
        return (self.endings["completed"] - before) / (time.monotonic() - began)

    def _ask(self) -> None:
        with grpc.insecure_channel(self._address, options=OPTIONS) as channel:
            stub = ImageGenerationServiceStub(channel)
            while not self._over.is_set():
                how = _generate(stub, random.sample(self._adapters, 1) if self._adapters else ())
                with self._lock:
                    self.endings[how] += 1
                if how != "completed":
                    # A request that fails at once must not be repeated a hundred times a second.
                    self._over.wait(0.1)


@dataclass
class Ended:
    """Outcomes of calls and their durations."""

    endings: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)


def open_loop(address: str, rate: float, seconds: float, adapters: Sequence[str]) -> Ended:
    """Makes `rate` calls per second, however long they take; adapters' popularity follows Zipf."""
    ended, lock, threads = Ended(), threading.Lock(), []
    rnd = random.Random(1)
    weights = [1 / (n + 1) for n in range(len(adapters))]

    def ask(adapter: str) -> None:
        began = time.monotonic()
        how = _generate(_stub(address), [adapter])
        with lock:
            ended.endings[how] += 1
            ended.seconds.append(time.monotonic() - began)

    for adapter in adapters:
        ask(adapter)
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        time.sleep(rnd.expovariate(rate))
        thread = threading.Thread(target=ask, args=rnd.choices(adapters, weights))
        thread.start()
        threads.append(thread)
    for thread in threads:
        thread.join()
    return ended
