"""The images in flight: all device work, step by step, on the device thread.

Owns the order of an image's stages, their times, who shares a step, and the looks at cancellation
between steps. A newcomer joins at the next step and a finished or cancelled image leaves, whoever
else is in flight. Who boards a full flight stands by, and has the next free seat without anybody
else being asked: the device never waits for the event loop. Knows nothing of the queue.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from inference_server.adapters.binding import Binding
from inference_server.engine.jpeg import encode_preview
from inference_server.scheduler.events import AdapterUse, PreviewImage, Started, StepDone
from inference_server.scheduler.interfaces import ImageEngine
from inference_server.scheduler.request import Job

log = logging.getLogger(__name__)


class ClientGoneError(Exception):
    """What became of an image whose job was cancelled; nobody is left to read it."""


@dataclass(eq=False, slots=True)
class Passenger:
    """One image on its way to pixels."""

    job: Job
    binding: Binding
    uses: tuple[AdapterUse, ...] = field(init=False)
    drawing: Any = field(init=False, default=None)
    step: int = field(init=False, default=0)
    began: float = field(init=False, default=0.0)
    """`time.perf_counter()` when it got its seat; 0: it stands by."""
    encoded: float = field(init=False, default=0.0)
    """`time.perf_counter()` when its prompt was encoded; its steps follow."""
    stages: dict[str, float] = field(init=False, default_factory=dict)
    """Seconds of each stage, once it has landed."""

    def __post_init__(self) -> None:
        self.uses = uses_of(self.binding)


Landed = Callable[[Passenger, Any], None]
"""Told of each passenger once, from the device thread: its pixels, or the exception it ended in."""

Stepped = Callable[[float, int], None]
"""Told of each step, from the device thread: its seconds, and how many images shared it."""


class Flight:
    """Everybody in flight.

    Args:
        engine: generates; only `fly` calls it.
        seats: images that may share a step.
        landed: see `Landed`.
        stepped: see `Stepped`.
    """

    def __init__(self, engine: ImageEngine, seats: int, landed: Landed, stepped: Stepped) -> None:
        self._engine = engine
        self._seats = seats
        self._landed = landed
        self._stepped = stepped
        self._lock = threading.Lock()
        self._boarding: list[Passenger] = []
        self._expected: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._passengers: list[Passenger] = []

    def expect(self, prompt: str) -> None:
        """An image of that prompt comes soon; from any thread."""
        self._expected.put(prompt)

    @property
    def boarding(self) -> bool:
        """Whether somebody waits for `fly`."""
        return bool(self._boarding)

    @property
    def wanted(self) -> bool:
        """Whether `fly` has anything to do."""
        return self.boarding or not self._expected.empty()

    def board(self, passenger: Passenger) -> None:
        """Joins at the next step, or stands by for a seat; from any thread.

        Somebody has to call `fly`, if nobody does.
        """
        with self._lock:
            self._boarding.append(passenger)

    def leave(self, passenger: Passenger) -> bool:
        """Whether it still stood by, and is gone now; from any thread."""
        with self._lock:
            if passenger not in self._boarding:
                return False
            self._boarding.remove(passenger)
            return True

    def fly(self) -> None:
        """On the device thread: steps until nobody is left. Raises nothing."""
        while True:
            self._take_off()
            if self._passengers:
                self._step()
            elif not self._encode_ahead():
                return

    def _encode_ahead(self) -> bool:
        """Encodes what is expected, with nobody in flight; whether there was anything."""
        prompts = self._to_encode()
        for prompt in prompts:
            try:
                self._engine.encode(prompt)
            except Exception:
                # Whoever it was for meets it again, and is told.
                log.exception("encoding a prompt ahead failed")
        return bool(prompts)

    def _take_off(self) -> None:
        while (passenger := self._next()) is not None:
            try:
                self._begin(passenger)
            except Exception as error:
                self._landed(passenger, error)
            else:
                self._passengers.append(passenger)

    def _next(self) -> Passenger | None:
        """The first who can have a seat now, or has gone."""
        with self._lock:
            for passenger in self._boarding:
                prompt = passenger.job.request.prompt
                ready = not self._passengers or self._engine.encoded(prompt)
                free = len(self._passengers) < self._seats
                if passenger.job.cancelled or (ready and free):
                    self._boarding.remove(passenger)
                    return passenger
                if not ready:
                    # Beside the others' step, not instead of it.
                    self.expect(prompt)
        return None

    def _begin(self, passenger: Passenger) -> None:
        job, request = passenger.job, passenger.job.request
        _go_on(job)
        passenger.began = time.perf_counter()
        prompt = self._engine.encode(request.prompt)
        passenger.encoded = time.perf_counter()
        job.post_from_thread(
            Started(
                request.seed,
                request.steps,
                passenger.uses,
                prompt.tokens,
                prompt.tokens_ignored,
                passenger.binding.skipped,
            )
        )
        passenger.drawing = self._engine.begin(
            prompt, request.seed, request.steps, passenger.binding.gated
        )

    def _step(self) -> None:
        """One step of everybody who is still wanted."""
        for passenger in list(self._passengers):
            if passenger.job.cancelled:
                self._land(passenger, ClientGoneError())
        together = list(self._passengers)
        if not together:
            return
        began = time.perf_counter()
        try:
            self._engine.step([passenger.drawing for passenger in together], self._to_encode())
        except Exception as error:
            for passenger in together:
                self._land(passenger, error)
            return
        # A GPU has only been told what to do so far: the checks wait for it.
        sound = [passenger for passenger in together if self._is_sound(passenger)]
        ended = time.perf_counter()
        self._stepped(ended - began, len(together))
        for passenger in sound:
            try:
                self._after_step(passenger, ended)
            except Exception as error:
                self._land(passenger, error)

    def _is_sound(self, passenger: Passenger) -> bool:
        """Whether the step left the image whole; one that is not lands."""
        try:
            self._engine.check(passenger.drawing)
        except Exception as error:
            self._land(passenger, error)
            return False
        return True

    def _to_encode(self) -> list[str]:
        """Expected prompts, each once, without those of the cache."""
        prompts: dict[str, None] = {}
        while not self._expected.empty():
            prompts[self._expected.get()] = None
        return [prompt for prompt in prompts if not self._engine.encoded(prompt)]

    def _after_step(self, passenger: Passenger, ended: float) -> None:
        job, request = passenger.job, passenger.job.request
        passenger.step += 1
        preview = self._preview(passenger) if request.preview else None
        elapsed = ended - passenger.encoded
        job.post_from_thread(StepDone(passenger.step, request.steps, elapsed, ended, preview))
        if passenger.step < request.steps:
            return
        _go_on(job)
        denoised = time.perf_counter()
        pixels = self._engine.decode(passenger.drawing)
        passenger.stages = {
            "queued": passenger.began - job.arrived_at,
            "text_encode": passenger.encoded - passenger.began,
            "denoise": denoised - passenger.encoded,
            "decode": time.perf_counter() - denoised,
        }
        self._land(passenger, pixels)

    def _preview(self, passenger: Passenger) -> PreviewImage:
        pixels = self._engine.preview(passenger.drawing)
        height, width = pixels.shape[:2]
        return PreviewImage(encode_preview(pixels), width, height)

    def _land(self, passenger: Passenger, outcome: Any) -> None:
        self._passengers.remove(passenger)
        # Its tensors go now, not when the event loop is done with it.
        passenger.drawing = None
        self._landed(passenger, outcome)


def _go_on(job: Job) -> None:
    if job.cancelled:
        raise ClientGoneError


def uses_of(binding: Binding) -> tuple[AdapterUse, ...]:
    """The exact adapter versions of an image."""
    return tuple(
        AdapterUse(w.name, w.weight, entry.content_hash, pin.content.generation, entry.autov3)
        for w, pin in zip(binding.wanted, binding.pins, strict=True)
        for entry in [pin.content.entry]
    )
