"""The service on Ray Serve: overhead, throughput, affinity, and failures.

    python -m benchmarks.fleet [--only cost,throughput,...] [--seconds S] [--out FILE]

The replicas have stub engines that take 200 ms per image, so that everything else is measured.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from ray import serve
from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from benchmarks.report import Figure, Series, percentile
from benchmarks.stress.processes import stub_service
from inference_server.ray_app.names import FRONT, REPLICA
from scripts.load import Call, Load, call, open_loop
from scripts.local_fleet import LocalFleet, StubReplica
from scripts.processes import stolen_ticks

IMAGE_SECONDS = 0.2
STEPS = 4
ENVIRONMENT = {"STUB_SECONDS": str(IMAGE_SECONDS)}

ADAPTERS = tuple(f"adapter{n}" for n in range(8))
KILLS = 20


class RoundRobin(RequestRouter):
    """The router to compare with: replicas in rotation, regardless of their adapters."""

    def initialize_state(self, **_: Any) -> None:
        """Starts with the first replica."""
        self._next = 0

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Returns the replicas in rotation, the next one first."""
        self._next += 1
        first = self._next % len(candidate_replicas)
        ordered = sorted(candidate_replicas, key=lambda r: r.replica_id.unique_id)
        return [[r] for r in ordered[first:] + ordered[:first]]


def adapters_folder() -> Path:
    """Makes a folder with eight copies of an adapter."""
    folder = Path(tempfile.mkdtemp(prefix="wuliart-fleet-"))
    for name in ADAPTERS:
        shutil.copy(Path("loras") / "ink.safetensors", folder / f"{name}.safetensors")
    return folder


def stub_fleet(replicas: int, **settings: Any) -> LocalFleet:
    """Returns a fleet with stub engines, not yet started."""
    return LocalFleet(
        adapters_folder(), replicas, replica=StubReplica, environment=ENVIRONMENT, **settings
    )


def cost(seconds: float) -> list[Figure]:
    """Compares an image and its steps through the fleet with the single server, alternating.

    Only calls during which the hypervisor withheld no tick count: a tick is as long as the figure.
    """
    os.environ |= ENVIRONMENT
    with stub_service() as (single, _), stub_fleet(1) as fleet:
        found: dict[str, list[tuple[int, Call]]] = {single: [], fleet.listen: []}
        for address in found:
            call(address)
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            for address, calls in found.items():
                before, timed = stolen_ticks(), call(address)
                calls.append((stolen_ticks() - before, timed))
    every = [[c for _, c in calls] for calls in found.values()]
    own = [[c for taken, c in calls if not taken] for calls in found.values()]

    def more(of: Callable[[Call], float], share: float, sets: list[list[Call]] = own) -> float:
        here, there = ([of(c) for c in calls] for calls in reversed(sets))
        return 1000 * (percentile(here, share) - percentile(there, share))

    def steps(share: float, sets: list[list[Call]] = own) -> list[float]:
        return [more(lambda c, n=n: c.steps[n], share, sets) for n in range(STEPS)]  # type: ignore[misc]

    def total(call: Call) -> float:
        return call.total

    of = f"{' and '.join(str(len(calls)) for calls in own)} of {len(every[0])} images each"
    total_note = f"{of}; median {more(total, 0.5):.1f} ms; of all {more(total, 0.99, every):.1f}"
    middle, all_steps = statistics.median(steps(0.5)), max(steps(0.99, every))
    return [
        Figure("an image, p99 against the single server", more(total, 0.99), "ms", 15,
               note=total_note),
        Figure("a step event, p99", max(steps(0.99)), "ms", 10,
               note=f"median {middle:.1f} ms; of all {all_steps:.1f}"),
    ]  # fmt: skip


def throughput(seconds: float) -> list[Figure]:
    """Measures four replicas under saturation."""
    os.environ |= ENVIRONMENT
    with stub_service() as (single, _), Load(single, clients=3) as load:
        time.sleep(2)
        one = load.rate(seconds / 2)
    with stub_fleet(4) as fleet, Load(fleet.listen, clients=14) as load:
        time.sleep(4)
        (pid,) = fleet.pids(FRONT)
        front = psutil.Process(pid)
        before, began = sum(front.cpu_times()[:2]), load.endings["completed"]
        four = load.rate(seconds)
        spent = sum(front.cpu_times()[:2]) - before
        each = 1000 * spent / (load.endings["completed"] - began)
    note = f"{four:.2f} images/s, one server {one:.2f}; the front takes {each:.1f} ms an image"
    return [Figure("four replicas against one", four / (4 * one), "x linear", 0.95, at_most=False,
                   note=note)]  # fmt: skip


def affinity(seconds: float) -> list[Figure]:
    """Runs eight adapters of skewed popularity on four replicas of two slots, at 70 % load."""
    rate = 0.7 * 4 / IMAGE_SECONDS
    found = {}
    for name, options in (("affinity", {}), ("round robin", {"router": RoundRobin})):
        with stub_fleet(4, slots=2, **options) as fleet:
            # Warm up: adapters that are absent at the start say nothing about the router.
            open_loop(fleet.listen, rate, 5, ADAPTERS)
            before = fleet.counts()
            ended = open_loop(fleet.listen, rate, seconds, ADAPTERS)
            after = fleet.counts()
            generated, resident = (after[key] - before[key] for key in ("requests", "resident"))
            found[name] = resident / generated, ended
    share, ended = found["affinity"]
    other, other_ended = found["round robin"]
    note = (
        f"of {sum(ended.endings.values())}: {dict(ended.endings)}, median "
        f"{percentile(ended.seconds, 0.5):.2f} s, p99 {percentile(ended.seconds, 0.99):.2f}; round "
        f"robin {100 * other:.0f} %, median {percentile(other_ended.seconds, 0.5):.2f} s, p99 "
        f"{percentile(other_ended.seconds, 0.99):.2f}"
    )
    what = "images that find their adapter"
    return [Figure(what, 100 * share, "%", 85, at_most=False, note=note)]


def kills(_: float) -> list[Figure]:
    """Kills a replica repeatedly while images are generated."""
    back: list[float] = []
    with stub_fleet(4) as fleet, Load(fleet.listen, clients=6, adapters=ADAPTERS[:4]) as load:
        time.sleep(4)
        for _ in range(KILLS):
            pid = fleet.pids()[0]
            os.kill(pid, signal.SIGKILL)
            began = time.monotonic()
            while pid in fleet.pids() or len(fleet.pids()) < 4 or running() < 4:
                time.sleep(0.05)
            back.append(time.monotonic() - began)
            time.sleep(1.5)
    endings = load.endings
    lost = endings.pop("UNAVAILABLE REPLICA_LOST", 0)
    completed = endings.pop("completed", 0)
    note = f"{completed} images; back after {statistics.median(back):.1f} s, worst {max(back):.1f}"
    return [
        Figure(f"killed {KILLS} times: images lost", lost, "", 0, note=note),
        Figure("killed: other endings", sum(endings.values()), "", 0, note=str(dict(endings))),
        Figure("killed: back after, worst", max(back), "s", 10),
    ]


def running() -> int:
    """Returns the number of replicas that take requests."""
    replica = serve.status().applications[REPLICA.application].deployments[REPLICA.deployment]
    states: dict[Any, int] = dict(replica.replica_states)
    return states.get("RUNNING", 0)


def update(_: float) -> list[Figure]:
    """Replaces every replica while images are generated."""
    with stub_fleet(4) as fleet, Load(fleet.listen, clients=6, adapters=ADAPTERS[:4]) as load:
        time.sleep(4)
        before, began = set(fleet.pids()), time.monotonic()
        fleet.deploy(revision="2")
        while before & set(fleet.pids()) or running() < 4:
            time.sleep(0.1)
        took = time.monotonic() - began
        time.sleep(2)
    completed = load.endings.pop("completed", 0)
    note = f"{completed} images in {took:.0f} s; {dict(load.endings)}"
    return [Figure("rolling update: failed requests", sum(load.endings.values()), "", 0, note=note)]


def cancel(seconds: float) -> list[Figure]:
    """Measures from a cancellation to the end of the last step for that request."""
    step = IMAGE_SECONDS / STEPS
    waits: list[float] = []
    with stub_fleet(1) as fleet:
        ends, choose = time.monotonic() + seconds, random.Random(1)
        while time.monotonic() < ends:
            left = call(fleet.listen, leave_after=choose.randint(1, STEPS - 2)).left
            time.sleep(STEPS * step)
            waits.append(1000 * max(0.0, fleet.last_end() - left))
            time.sleep(choose.uniform(0, step))
    note = f"{len(waits)} times; median {percentile(waits, 0.5):.0f} ms, worst {max(waits):.0f}"
    return [Figure("cancel: the device is free after, p99", percentile(waits, 0.99), "ms",
                   1000 * step, note=f"{note}; a step is {1000 * step:.0f}")]  # fmt: skip


MEASURES: dict[str, Callable[[float], list[Figure]]] = {
    "cost": cost,
    "throughput": throughput,
    "affinity": affinity,
    "kills": kills,
    "update": update,
    "cancel": cancel,
}


def main() -> None:
    """Runs the benchmarks one after another; exits with 1 if a figure is missed."""
    parser = argparse.ArgumentParser(prog="benchmarks.fleet")
    parser.add_argument("--only", default=",".join(MEASURES), help=", ".join(MEASURES))
    parser.add_argument("--seconds", type=float, default=60, help="seconds of each")
    parser.add_argument("--out", type=Path, help="JSON file, updated")
    values = parser.parse_args()
    names = values.only.split(",")
    if len(names) == 1:
        sys.exit(_measure(names[0], values.seconds, values.out))
    # A process each: Ray forks to start its own, which may kill a process that has used gRPC.
    options = ["--seconds", str(values.seconds), *(["--out", values.out] if values.out else [])]
    command = [sys.executable, "-m", "benchmarks.fleet", *options, "--only"]
    sys.exit(max(subprocess.run([*command, name], check=False).returncode for name in names))


def _measure(name: str, seconds: float, out: Path | None) -> bool:
    """Runs one benchmark; returns True if a figure is missed."""
    print(f"{name} ...", file=sys.stderr, flush=True)
    series = Series(out)
    series.add(name, MEASURES[name](seconds))
    return series.missed


if __name__ == "__main__":
    main()
