"""A process may open no more files: new clients wait or get an error, connected ones go on."""

from __future__ import annotations

import resource
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import grpc
import psutil

from tests.chaos.image_loop import ImageLoop
from tests.chaos.leaks import nothing_leaks
from tests.chaos.world import PATIENCE, Version, World
from wuliart.v1.adapter_pb2 import ListAdaptersRequest
from wuliart.v1.adapter_pb2_grpc import AdapterServiceStub

SPARE = 6
CLIENTS = 20
"""More than there are descriptors left for."""

TIMEOUT = 3.0

ASK = ListAdaptersRequest()


@contextmanager
def connection(world: World) -> Iterator[Any]:
    """A client of its own: clients of one process would share one connection."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(world.service.listen, options=options) as channel:
        yield AdapterServiceStub(channel)


def named(error: grpc.RpcError) -> grpc.StatusCode:
    """Returns the status of a client without a connection: from the server, or by its deadline."""
    code: grpc.StatusCode = error.code()
    assert code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED), error
    return code


@contextmanager
def few_descriptors(world: World, name: str, spare: int) -> Iterator[None]:
    """The process may open so many more than it has open."""
    process = psutil.Process(world.service.processes[name].pid)
    before = process.rlimit(resource.RLIMIT_NOFILE)
    process.rlimit(resource.RLIMIT_NOFILE, (process.num_fds() + spare, before[1]))
    try:
        yield
    finally:
        process.rlimit(resource.RLIMIT_NOFILE, before)


def test_more_clients_than_descriptors_leave_those_who_are_there_alone(
    world: World, versions: list[Version]
) -> None:
    (version, *_) = versions
    world.drop("ink", version)
    world.start_manager()
    world.await_resident("ink", version)
    answered, failed = 0, Counter[grpc.StatusCode]()
    with ImageLoop(world, "ink") as loop, nothing_leaks(world, "server", threads=2):
        loop.wait_for_more(2)
        with few_descriptors(world, "server", SPARE), ExitStack() as connections:
            for _ in range(CLIENTS):
                client = connections.enter_context(connection(world))
                try:
                    client.ListAdapters(ASK, timeout=0.3 if failed else TIMEOUT)
                    answered += 1
                except grpc.RpcError as error:
                    failed[named(error)] += 1
            loop.wait_for_more(4)
            assert failed, "there was room for all"
            assert answered > 0
            connections.close()
            # Still as few: but those before have gone.
            freed = time.monotonic()
            while True:
                try:
                    with connection(world) as client:
                        client.ListAdapters(ASK, timeout=TIMEOUT)
                    break
                except grpc.RpcError as error:
                    named(error)
                    assert time.monotonic() - freed < PATIENCE
            seconds = time.monotonic() - freed
        loop.wait_for_more(2)
    loop.check()
    print(f"\n{answered} answered, {dict(failed)}; answered {seconds:.2f} s after they left")


def test_server_info_needs_no_descriptor(world: World) -> None:
    assert world.client.info(timeout=TIMEOUT).limits.max_steps
    with few_descriptors(world, "server", 0):
        world.client.info(timeout=TIMEOUT)


def test_a_manager_that_can_open_no_file_keeps_what_there_is_and_goes_on_later(
    world: World, versions: list[Version]
) -> None:
    first, second, *_ = versions
    world.drop("ink", first)
    world.start_manager()
    world.await_resident("ink", first)
    with ImageLoop(world, "ink") as loop, nothing_leaks(world, "manager", threads=2):
        with few_descriptors(world, "manager", 0):
            world.drop("ink", second)
            began = time.monotonic()
            while time.monotonic() - began < TIMEOUT:
                loop.wait_for_more(2)
            assert world.service.processes["manager"].poll() is None
        freed = time.monotonic()
        world.await_resident("ink", second)
        print(f"\ntaken in {time.monotonic() - freed:.2f} s after there were descriptors again")
    loop.check()
    assert world.draws("ink", second)
