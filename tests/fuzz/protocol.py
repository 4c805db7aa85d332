"""Fuzz target `protocol`: a LoRA manager that sends any calls in any order to the real servicer.

After each step no image may use a slot whose checksum was not verified, pins and names must agree
with the slots, and no exception but RequestError may be raised. The clock and the worker thread are
faked, so that the fuzzed bytes decide when leases run out and verifications overlap.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from typing import Any
from unittest import mock

import torch
import xxhash

from inference_server.adapters.segment import AdapterSegment
from inference_server.adapters.slot_state import Pin, SlotState
from inference_server.adapters.store import AdapterStore
from inference_server.adapters.verification import SlotVerifier
from inference_server.errors import RequestError
from inference_server.service.segment_service import SegmentServicer
from inference_server.service.status import to_status
from tests.fuzz.choices import Choices
from wuliart.internal.v1 import segment_pb2 as pb
from wuliart_contract.status import CODES
from wuliart_lora.slot_layout import LayoutParameters, SegmentLayout
from wuliart_process.peer import Peer

LIMIT = 2
NAMES = ("a", "b", "c", "d", "", "\u202e", "x" * 300)
HASHES = ("h0", "h1", "", "z" * 64)
LONGEST = 60
"""Steps of one sequence; longer ones have found nothing more."""


class SmallLayout(SegmentLayout):
    """Slots without CUDA's padding: the target reads and zeroes them often."""

    def __init__(self) -> None:
        super().__init__(LayoutParameters(1, 4, 8, 2, 2, 3, 2, 2, 4, "float32"))
        self.slot_bytes = -(-self.packing(4, self.sites).nbytes // 4096) * 4096


LAYOUT = SmallLayout()
SITES = (*LAYOUT.sites, "no such site", "")
PRODUCTS = [m for site in LAYOUT.low_rank_sites.values() for m in site.modules]
MODULES = (*LAYOUT.modules, *LAYOUT.norms, "no such module", "")
SEGMENT = AdapterSegment(LAYOUT, LIMIT + 1, torch.device("cpu"))
LOOP = asyncio.new_event_loop()
CONTEXT = mock.Mock(invocation_metadata=lambda: ())
"""The context of a call without a trace."""


class Descriptors:
    """Stands in for the descriptor socket."""

    def peer(self, token: bytes) -> Peer:
        """Returns a process for any token."""
        return Peer(1, os.geteuid())

    def hand_over(self, token: bytes, session_id: str) -> None:
        """Sends nothing: `Play` writes to the segment directly."""


class Play:
    """One run of a server with its managers and images."""

    def __init__(self, choices: Choices) -> None:
        self.choices = choices
        self.now = 0.0
        SEGMENT._mapping[:] = bytes(SEGMENT.nbytes)
        self.store = AdapterStore(SEGMENT, LIMIT, ("a",))
        self.store.slots._clock = lambda: self.now
        self.verified: dict[tuple[int, int], int] = {}
        self.store.verifier.stage_and_compare = self._verify  # type: ignore[method-assign]
        self.servicer = SegmentServicer(self.store, Descriptors(), b"")  # type: ignore[arg-type]
        self.streams: list[AsyncIterator[pb.AttachResponse]] = []
        self.sessions = ["", "no such session"]
        self.slots: list[tuple[str, int, int, str]] = [("", 0, 0, "")]
        self.pins: list[Pin] = []
        self.gates: list[asyncio.Future[None]] = []
        self.commits: list[asyncio.Task[None]] = []
        self.generation = 0

    async def play(self) -> None:
        """Runs all steps and ends every call."""
        steps = [
            self.attach, self.reserve, self.commit, self.open_gate, self.report, self.abandon,
            self.detach, self.writer_is_gone, self.wait, self.pin, self.release, self.leave,
            self.write,
        ]  # fmt: skip
        with mock.patch.object(asyncio, "to_thread", self._beside):
            for _ in range(LONGEST):
                if not self.choices:
                    break
                await self._step(self.choices.pick(steps))
                self._check()
            for gate in self.gates:
                gate.done() or gate.set_result(None)
            await asyncio.gather(*self.commits, return_exceptions=True)
            for task in self.commits:
                self._allowed(None if task.cancelled() else task.exception())
            for stream in self.streams:
                await stream.aclose()  # type: ignore[attr-defined]
            while self.pins:
                self.store.slots.release(self.pins.pop())
            self._check()
        assert not any(s.state is SlotState.VERIFYING for s in self.store.slots.slots)

    async def _step(self, step: Callable[[], Any]) -> None:
        try:
            await step()
        except RequestError as error:
            self._allowed(error)
        # Tasks that this wakes run at most to the next gate.
        for _ in range(3):
            await asyncio.sleep(0)

    def _allowed(self, error: BaseException | None) -> None:
        if isinstance(error, RequestError):
            assert error.reason in CODES
            to_status(error)
        elif error is not None:
            raise error

    # -- steps ------------------------------------------------------------------------------

    async def attach(self) -> None:
        """Attaches a manager; the stream stays open."""
        stream = self.servicer.Attach(pb.AttachRequest(direct=self.choices.coin()), None)  # type: ignore[arg-type]
        answer = await anext(stream)
        self.streams.append(stream)
        self.sessions.append(answer.attached.session_id)

    async def detach(self) -> None:
        """Ends a stream."""
        if self.streams:
            stream = self.streams.pop(self.choices.below(len(self.streams)))
            await stream.aclose()  # type: ignore[attr-defined]

    async def writer_is_gone(self) -> None:
        """Closes the connection of the current or of an earlier manager."""
        self.store.writer_is_gone(self._session())

    async def reserve(self) -> None:
        """Reserves a slot for a name."""
        session, name = self._session(), self.choices.pick(NAMES)
        request = pb.ReserveSlotRequest(
            session_id=session,
            request_id=str(self.choices.below(6)),
            name=name,
            evict=self.choices.coin(),
        )
        answer = await self.servicer.ReserveSlot(request, None)  # type: ignore[arg-type]
        assert answer.offset == SEGMENT.offset(answer.slot) < SEGMENT.nbytes
        self.slots.append((session, answer.slot, answer.generation, name))

    async def write(self) -> None:
        """Writes bytes to a slot, whether or not it is still reserved."""
        _, index, _, _ = self._held()
        os.pwrite(SEGMENT.descriptor, self.choices.bytes(16), SEGMENT.offset(index % (LIMIT + 1)))

    async def commit(self) -> None:
        """Commits a slot, with all values right or some of them wrong."""
        session, index, generation, name = self._held()
        right = self.choices.below(4) > 0
        rank = 1 + self.choices.below(4)
        sites = [self.choices.pick(LAYOUT.sites) for _ in range(self.choices.below(4))]
        products = [
            pb.KroneckerProduct(module=self.choices.pick(PRODUCTS), first_rows=1, first_columns=1)
            for _ in range(self.choices.below(2))
        ]
        shapes = {p.module: (p.first_rows, p.first_columns) for p in products}
        reach = LAYOUT.packing(rank, sites, shapes).nbytes or 1
        request = pb.CommitSlotRequest(
            session_id=session, slot=index, generation=generation, written_bytes=reach,
            checksum=SEGMENT.checksum(index, reach), packed_rank=rank, sites=sites,
            kronecker=products,
            entry=pb.CatalogEntry(name=name, content_hash=self.choices.pick(HASHES)),
        )  # fmt: skip
        if not right:
            self._spoil(request)
        task = LOOP.create_task(self.servicer.CommitSlot(request, CONTEXT))
        self.commits.append(task)  # type: ignore[arg-type]

    def _spoil(self, request: pb.CommitSlotRequest) -> None:
        choices = self.choices
        for _ in range(1 + choices.below(3)):
            match choices.below(10):
                case 0:
                    request.slot = choices.number(32)
                case 1:
                    request.generation = choices.number(64)
                case 2:
                    request.checksum = choices.bytes(choices.below(20))
                case 3:
                    request.written_bytes = choices.number(64)
                case 4:
                    request.packed_rank = choices.number(32)
                case 5:
                    request.sites.append(choices.pick(SITES))
                case 6:
                    request.entry.name = choices.pick(NAMES)
                case 7:
                    request.copy_time.seconds = choices.number(64) - (1 << 63)
                    request.time_since_noticed.nanos = choices.number(32) - (1 << 31)
                case 8:
                    request.session_id = self._session()
                case 9:
                    request.kronecker.add(
                        module=choices.pick(MODULES),
                        first_rows=choices.pick((0, 1, 2, 3, 4, choices.number(32))),
                        first_columns=choices.pick((0, 1, 2, 3, 4, choices.number(32))),
                    )

    async def abandon(self) -> None:
        """Abandons a reservation, or one that does not exist."""
        session, index, generation, _ = self._held()
        if self.choices.coin():
            index, generation = self.choices.number(32), self.choices.number(64)
        request = pb.AbandonSlotRequest(session_id=session, slot=index, generation=generation)
        await self.servicer.AbandonSlot(request, None)  # type: ignore[arg-type]

    async def report(self) -> None:
        """Reports a directory, which may list a name twice."""
        request = pb.ReportCatalogRequest(session_id=self._session())
        for _ in range(self.choices.below(4)):
            request.entries.add(
                name=self.choices.pick(NAMES),
                content_hash=self.choices.pick(HASHES),
                refusal_reason="bad" * self.choices.below(2),
                rank=self.choices.number(32),
            )
        request.pending.extend(self.choices.pick(NAMES) for _ in range(self.choices.below(3)))
        await self.servicer.ReportCatalog(request, None)  # type: ignore[arg-type]

    async def wait(self) -> None:
        """Advances the clock; leases run out."""
        self.now += self.choices.pick((1.0, 9.0, 11.0))
        self.store.expire()

    async def pin(self) -> None:
        """Starts an image with an adapter, resident or not."""
        name = self.choices.pick(NAMES)
        pin = self.store.slots.pin(name)
        if pin is None:
            self.store.promote(name)
        else:
            self.pins.append(pin)

    async def release(self) -> None:
        """Ends an image."""
        if self.pins:
            self.store.slots.release(self.pins.pop(self.choices.below(len(self.pins))))

    async def open_gate(self) -> None:
        """Completes one verification."""
        if waiting := [gate for gate in self.gates if not gate.done()]:
            self.choices.pick(waiting).set_result(None)

    async def leave(self) -> None:
        """Cancels a commit."""
        if running := [task for task in self.commits if not task.done()]:
            self.choices.pick(running).cancel()

    # -- parts of the steps --------------------------------------------------------------------

    def _session(self) -> str:
        # The newest is picked most often, as it matters most.
        return self.sessions[-1] if self.choices.coin() else self.choices.pick(self.sessions)

    def _held(self) -> tuple[str, int, int, str]:
        return self.slots[-1] if self.choices.coin() else self.choices.pick(self.slots)

    async def _beside(self, work: Callable[..., Any], *arguments: Any) -> Any:
        gate = LOOP.create_future()
        self.gates.append(gate)
        await gate
        return work(*arguments)

    def _verify(self, index: int, nbytes: int, checksum: bytes) -> bool:
        slot = self.store.slots.slots[index]
        assert slot.state is SlotState.VERIFYING
        fits = SlotVerifier.stage_and_compare(self.store.verifier, index, nbytes, checksum)
        data = os.pread(SEGMENT.descriptor, nbytes, SEGMENT.offset(index))
        assert fits == (xxhash.xxh3_128(data).digest() == checksum)
        if fits:
            start = SEGMENT.offset(index)
            assert SEGMENT._arena[start : start + nbytes].numpy().tobytes() == data
            self.verified[index, slot.generation] = nbytes
        return fits

    def _check(self) -> None:
        table = self.store.slots
        ready = {s.name: s for s in table.slots if s.state is SlotState.READY}
        assert len(ready) == sum(s.state is SlotState.READY for s in table.slots) <= LIMIT
        for name in NAMES:
            assert table.published(name) is (ready[name].content if name in ready else None)
        for slot in table.slots:
            assert slot.pins == sum(pin.slot == slot.index for pin in self.pins) >= 0
            drawn = slot.state in (SlotState.READY, SlotState.DRAINING)
            assert drawn == (slot.content is not None)
            if slot.content is not None:
                summed = self.verified[slot.index, slot.generation]
                assert slot.content.generation == slot.generation
                self._check_reach(slot.index, summed, slot.content.tensors)
            assert drawn or not slot.pins
            assert slot.state is not SlotState.DRAINING or slot.pins
        newest = max(slot.generation for slot in table.slots)
        assert newest >= self.generation
        self.generation = newest

    def _check_reach(self, index: int, summed: int, tensors: Any) -> None:
        first = SEGMENT._arena.data_ptr() + SEGMENT.offset(index)
        views = [t for pair in tensors.factors.values() for t in (pair.down, pair.up)]
        views += [t for some in tensors.kronecker.values() for p in some for t in p[1:]]
        for view in (*views, *tensors.deltas.values(), *tensors.vectors.values()):
            begin = view.data_ptr()
            assert (
                first <= begin <= begin + view.nbytes <= first + summed <= first + LAYOUT.slot_bytes
            )


def run(data: bytes) -> None:
    """Runs the sequence that the bytes describe."""
    LOOP.run_until_complete(Play(Choices(data)).play())


def seeds() -> dict[str, bytes]:
    """Returns sequences in which an adapter is published, pinned and replaced."""
    attach, reserve = b"\0\0", b"\1\1\0\1\1"
    commit, verify = b"\2\1\1\1\1\0\0", b"\3\0"
    load = reserve + commit + verify
    return {
        "load": attach + load,
        "replace": attach + load + b"\x09\0" + load + b"\x0a\0",
        "death": attach + reserve + b"\7\1" + attach + load,
        "late": attach + reserve + b"\x08\2" + commit + verify,
        "leave": attach + reserve + commit + b"\x0b\0" + verify,
        "report": attach + load + b"\4\1\2\0\0\0\0\0\1\0\0\0\0\0",
        "detach": attach + load + b"\6\0" + attach + load,
        "fill": attach
        + b"".join(b"\1\1" + bytes([n]) + b"\1\1" + commit + verify for n in range(4)),
    }
