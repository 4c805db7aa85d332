"""More file system events than the kernel keeps: what is lost with them is found by looking."""

from __future__ import annotations

import os
from pathlib import Path
from signal import SIGCONT, SIGSTOP

from tests.chaos.world import Version, World
from wuliart_client import AdapterState

EVENTS_KEPT = Path("/proc/sys/fs/inotify/max_queued_events")


def test_a_file_whose_event_is_lost_in_a_flood_is_found_by_the_next_scan(
    world: World, versions: list[Version]
) -> None:
    for name in ("changed", "gone"):
        world.drop(name, versions[0])
    world.start_manager()
    for name in ("changed", "gone"):
        world.await_resident(name, versions[0])
    manager = world.service.processes["manager"]
    os.kill(manager.pid, SIGSTOP)
    os.waitid(os.P_PID, manager.pid, os.WSTOPPED | os.WNOWAIT)
    flood = world.service.loras / ".flood"
    flood.touch()
    # Each rename is two events; equal ones in a row would be kept as one.
    for n in range(int(EVENTS_KEPT.read_text())):
        flood = flood.rename(flood.with_name(f".flood{n % 2}"))
    world.drop("changed", versions[1])
    world.drop("new", versions[2])
    world.path("gone").unlink()
    os.kill(manager.pid, SIGCONT)
    world.await_resident("changed", versions[1])
    world.await_resident("new", versions[2])
    world.until(lambda: {a.name for a in world.client.adapters()} == {"changed", "new"}, "one gone")
    assert all(a.state is AdapterState.RESIDENT for a in world.client.adapters())
    assert world.draws("changed", versions[1])
    # Events that come afterwards are heard again.
    world.drop("changed", versions[3])
    world.await_resident("changed", versions[3])
