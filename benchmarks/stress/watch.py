"""Cost of a thousand open watch streams on an idle server."""

from __future__ import annotations

import asyncio
from typing import Any

import psutil
from grpc import aio

from benchmarks.report import Figure
from benchmarks.stress.load import OPTIONS
from benchmarks.stress.processes import share_of_a_core, stub_service
from wuliart.v1.adapter_pb2 import WatchAdaptersRequest
from wuliart.v1.adapter_pb2_grpc import AdapterServiceStub

STREAMS = 1000

SETTLE_SECONDS = 5.0
"""Seconds after which opening the streams costs no more processor time."""


async def _watch(
    address: str, process: psutil.Process, connections: int, seconds: float
) -> tuple[float, float, int]:
    """Returns percent of a core, growth in MB, and streams still open at the end."""
    before = process.memory_info().rss
    channels = [aio.insecure_channel(address, options=OPTIONS) for _ in range(connections)]
    try:
        calls: list[Any] = [
            AdapterServiceStub(channels[n % connections]).WatchAdapters(WatchAdaptersRequest())
            for n in range(STREAMS)
        ]
        for call in calls:
            await call.read()
        await asyncio.sleep(SETTLE_SECONDS)
        share = await asyncio.to_thread(share_of_a_core, process, seconds)
        more = (process.memory_info().rss - before) / 1e6
        return share, more, sum(not call.done() for call in calls)
    finally:
        for channel in channels:
            await channel.close()


def watch(seconds: float) -> list[Figure]:
    """Opens the streams over 20 connections, as a proxy does, then over one each."""
    found = []
    for connections in (20, STREAMS):
        with stub_service() as (address, process):
            share, more, alive = asyncio.run(_watch(address, process, connections, seconds))
        what = f"watch: {STREAMS} streams on {connections} connections"
        found += [
            Figure(f"{what}, processor", share, "% of a core", 1, note=f"{alive} open at the end"),
            Figure(f"{what}, memory", more, "MB", 200),
        ]
    return found
