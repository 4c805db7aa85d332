"""The real LoRA manager, which ends or stops itself at one exact step of the protocol.

    python -m tests.chaos.manager_at STEP SIGNAL ARM ...

`ARM` is a file: the first time the step is reached while it exists, it is removed and the process
sends itself the signal. Everything after these three is the manager's own command line.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable
from enum import StrEnum
from pathlib import Path
from typing import Any

from lora_manager import loading, publisher, segment_session
from lora_manager.__main__ import main
from lora_manager.host_mapping import HostMapping
from lora_manager.segment_session import SegmentSession
from wuliart.internal.v1.segment_pb2 import CommitSlotRequest, ReserveSlotRequest

Act = Callable[[], None]


class ManagerStep(StrEnum):
    """Steps of the manager's work, in the order of the protocol."""

    CONNECTED = "connected"
    """The token has come; it has not been used."""
    ATTACHED = "attached"
    """The session is open; the descriptor is in the socket."""
    MAPPED = "mapped"
    REPORTING = "reporting"
    REPORTED = "reported"
    READING = "reading"
    """The file is open; its first bytes are read."""
    PARSED = "parsed"
    RESERVED = "reserved"
    HALF_WRITTEN = "half-written"
    WRITTEN = "written"
    COMMITTING = "committing"
    """The commit is on its way or being verified."""
    COMMITTED = "committed"
    """The adapter is published; the catalog has not been reported."""
    PROMOTED = "promoted"
    """An image waits for the adapter; nothing has been done for it."""


AT_START = (ManagerStep.CONNECTED, ManagerStep.ATTACHED, ManagerStep.MAPPED)
"""Steps that come before a session is at work."""


def _before(owner: Any, name: str, act: Act) -> None:
    original = getattr(owner, name)

    async def acting(*arguments: Any, **options: Any) -> Any:
        act()
        return await original(*arguments, **options)

    setattr(owner, name, acting)


def _after(owner: Any, name: str, act: Act, request: type = object) -> None:
    """After a call whose last argument is a `request`."""
    original = getattr(owner, name)

    async def acting(*arguments: Any, **options: Any) -> Any:
        result = await original(*arguments, **options)
        if isinstance(arguments[-1], request):
            act()
        return result

    setattr(owner, name, acting)


def _after_thread_work(owner: Any, name: str, act: Act) -> None:
    original = getattr(owner, name)

    def acting(*arguments: Any, **options: Any) -> Any:
        result = original(*arguments, **options)
        act()
        return result

    setattr(owner, name, acting)


def _in_the_middle_of_a_write(act: Act) -> None:
    write = HostMapping._write

    def acting(self: HostMapping, offset: int, data: Any, may_write: Callable[[], bool]) -> bool:
        half = data.size // 2
        if not write(self, offset, data[:half], may_write):
            return False
        act()
        # The real copy does not ask again half way either.
        return write(self, offset + half, data[half:], lambda: True)

    HostMapping._write = acting  # type: ignore[method-assign]


def _during_a_commit(act: Act) -> None:
    call = SegmentSession._call

    async def acting(self: SegmentSession, method: Any, request: Any) -> Any:
        calling = asyncio.ensure_future(call(self, method, request))
        if isinstance(request, CommitSlotRequest):
            # gRPC does not tell when a request has left; this is long enough for most.
            await asyncio.sleep(0.001)
            act()
        return await calling

    SegmentSession._call = acting  # type: ignore[method-assign]


def _at_a_promotion(act: Act) -> None:
    promotions = SegmentSession.promotions

    async def acting(self: SegmentSession) -> AsyncIterator[str]:
        async for name in promotions(self):
            act()
            yield name

    SegmentSession.promotions = acting  # type: ignore[method-assign]


INSTALL: dict[ManagerStep, Callable[[Act], None]] = {
    ManagerStep.CONNECTED: lambda act: _after(segment_session, "connect_to_server", act),
    ManagerStep.ATTACHED: lambda act: _before(segment_session, "receive_segment", act),
    ManagerStep.MAPPED: lambda act: _after(segment_session, "receive_segment", act),
    ManagerStep.REPORTING: lambda act: _before(SegmentSession, "report", act),
    ManagerStep.REPORTED: lambda act: _after(SegmentSession, "report", act),
    ManagerStep.READING: lambda act: _after_thread_work(loading, "_plan", act),
    ManagerStep.PARSED: lambda act: _after_thread_work(publisher, "load", act),
    ManagerStep.RESERVED: lambda act: _after(SegmentSession, "_call", act, ReserveSlotRequest),
    ManagerStep.HALF_WRITTEN: _in_the_middle_of_a_write,
    ManagerStep.WRITTEN: lambda act: _after(HostMapping, "write", act),
    ManagerStep.COMMITTING: _during_a_commit,
    ManagerStep.COMMITTED: lambda act: _after(SegmentSession, "_call", act, CommitSlotRequest),
    ManagerStep.PROMOTED: _at_a_promotion,
}


def run() -> None:
    step, number, arm = ManagerStep(sys.argv[1]), signal.Signals[sys.argv[2]], Path(sys.argv[3])
    del sys.argv[1:4]

    def act() -> None:
        if arm.exists():
            arm.unlink()
            # To this very thread: the signal takes effect before its next instruction.
            signal.pthread_kill(threading.get_ident(), number)

    INSTALL[step](act)
    main()


if __name__ == "__main__":
    run()
