"""More clients than the queue has places, and one request beside another client's hundred."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from grpc import aio

from benchmarks.report import Figure, percentile
from benchmarks.stress.processes import Gauge, stub_service
from scripts.processes import stolen_ticks
from wuliart.v1.image_generation_pb2 import GenerateImageRequest, GetServerInfoRequest
from wuliart.v1.image_generation_pb2_grpc import ImageGenerationServiceStub
from wuliart_contract.limits import MAX_RESPONSE_BYTES

CLIENTS = 500
CONNECTIONS = (500, 1)
"""One for each client, then one for all: the server identifies a client by its connection."""

QUEUE = 64
IMAGE_SECONDS = 0.05

DEADLINE = 60.0
"""Seconds after which a call counts as hung; the longest queue takes a tenth of that."""

SEEDS = 16
"""Few, so that each image is compared with the first one of its seed."""

MANY = 100
ROUNDS = 10

OPTIONS = (
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", MAX_RESPONSE_BYTES),
)


@asynccontextmanager
async def stubs(address: str, connections: int) -> AsyncIterator[list[Any]]:
    """Opens connections that share nothing and do not retry, so that every failure counts."""
    channels = [aio.insecure_channel(address, options=OPTIONS) for _ in range(connections)]
    try:
        yield [ImageGenerationServiceStub(channel) for channel in channels]
    finally:
        for channel in channels:
            await channel.close()


@dataclass
class Tally:
    """Outcomes of the calls."""

    images: int = 0
    wrong: int = 0
    rejected: int = 0
    moved_back: int = 0
    """Calls whose position grew after their first one."""
    hung: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    ratios: list[float] = field(default_factory=list)
    """For each image: its time, divided by the time that its place in the queue takes."""
    late: list[float] = field(default_factory=list)
    """The same as a difference, in seconds."""
    seen: dict[int, bytes] = field(default_factory=dict)

    def take(self, seed: int, image: bytes, position: int, seconds: float) -> None:
        """Counts an image that had `position` others before it."""
        self.images += 1
        self.wrong += self.seen.setdefault(seed, image) != image
        ideal = (position + 1) * IMAGE_SECONDS
        self.ratios.append(seconds / ideal)
        self.late.append(seconds - ideal)


async def _call(stub: Any, tally: Tally) -> bool:
    """Makes one call; returns True if the server rejected it for now."""
    seed = random.randrange(SEEDS)
    request = GenerateImageRequest(prompt="a lighthouse", seed=seed, omit_recipe=True)
    began = time.perf_counter()
    positions: list[int] = []
    image = b""
    try:
        async for event in stub.GenerateImage(request, timeout=DEADLINE):
            if event.HasField("queued"):
                positions.append(event.queued.position)
            elif event.HasField("completed"):
                image = event.completed.image
    except aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
            tally.rejected += 1
            return True
        tally.hung += error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        tally.failed[f"{error.code().name}: {error.details()}"] += 1
        return False
    if not image:
        tally.failed["ended without an image"] += 1
        return False
    first = positions[0] if positions else 0
    tally.moved_back += max(positions, default=0) > first
    tally.take(seed, image, first, time.perf_counter() - began)
    return False


async def _client(stub: Any, tally: Tally, ends: float) -> None:
    while time.monotonic() < ends:
        if await _call(stub, tally):
            # The server asks for about a second; spread, so that not all come back at once.
            await asyncio.sleep(random.uniform(1.0, 2.0))


async def _load(address: str, connections: int, seconds: float) -> Tally:
    tally = Tally()
    ends = time.monotonic() + seconds
    async with stubs(address, connections) as made:
        clients = [
            asyncio.create_task(_client(made[n % connections], tally, ends)) for n in range(CLIENTS)
        ]
        done, late = await asyncio.wait(clients, timeout=seconds + 2 * DEADLINE)
        tally.hung += len(late)
        for task in done:
            task.result()
    return tally


def load(seconds: float) -> list[Figure]:
    """Runs 500 clients for `seconds`, with a connection each and then over one."""
    return [figure for connections in CONNECTIONS for figure in _loaded(connections, seconds)]


def _loaded(connections: int, seconds: float) -> list[Figure]:
    with stub_service("--queue", str(QUEUE)) as (address, process), Gauge(process) as gauge:
        tally = asyncio.run(_load(address, connections, seconds))
    for what, count in tally.failed.items():
        print(f"  {count} x {what}")
    others = sum(tally.failed.values())
    calls = tally.images + tally.rejected + others
    note = (
        f"{tally.images} images, {tally.rejected} rejected for now; median "
        f"{percentile(tally.ratios, 0.5):.3f}, worst {max(tally.ratios):.3f}; behind the ideal by "
        f"{1000 * percentile(tally.late, 0.99):.0f} ms at p99; {tally.moved_back} were overtaken"
    )
    what = f"load, {connections} connections"
    return [
        Figure(f"{what}: other endings of {calls} calls", others, "", 0),
        Figure(f"{what}: hung calls", tally.hung, "", 0),
        Figure(f"{what}: wrong images", tally.wrong, "", 0),
        Figure(
            f"{what}: p99 of admitted", percentile(tally.ratios, 0.99), "x ideal", 1.2, note=note
        ),
        *gauge.figures(what, 10),
    ]


async def _others_before(address: str) -> tuple[int, int]:
    """Counts the greedy client's images that precede the other client's only one.

    Returns:
        The count, and the ticks that the hypervisor withheld meanwhile, which make it unreliable.
    """
    tally, alone = Tally(), Tally()
    async with stubs(address, 2) as (greedy, modest):
        # Connect first: images generated during the handshake are not ahead of it in the queue.
        await modest.GetServerInfo(GetServerInfoRequest())
        many = [asyncio.create_task(_call(greedy, tally)) for _ in range(MANY)]
        await asyncio.wait(many, return_when=asyncio.FIRST_COMPLETED)
        before, ticks = tally.images, stolen_ticks()
        await _call(modest, alone)
        first, ticks = tally.images - before, stolen_ticks() - ticks
        await asyncio.gather(*many)
    if tally.images != MANY or alone.images != 1:
        raise RuntimeError(
            f"{tally.failed + alone.failed}, {tally.rejected + alone.rejected} rejected"
        )
    return first, ticks


def fairness() -> list[Figure]:
    """One client requests 100 images, then another client one."""
    with stub_service("--queue", str(MANY)) as (address, _):
        rounds = [asyncio.run(_others_before(address)) for _ in range(ROUNDS)]
    judged = [first for first, ticks in rounds if not ticks]
    note = (
        f"the running one included; worst of {len(judged)} rounds without a stolen tick, of "
        f"all {ROUNDS} {max(first for first, _ in rounds)}"
    )
    worst = max(judged, default=MANY)
    return [
        Figure(f"fairness: of {MANY}, generated before the other client's", worst, "", 2, note=note)
    ]
