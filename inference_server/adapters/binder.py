"""Binds a request's adapters to exact versions, having absent ones loaded first.

Owns what a request waits for and for how long, and what becomes of an adapter that cannot be used:
the request fails, or is generated without it. Knows nothing of who writes slots: it asks the store.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from inference_server.adapters import binding_errors
from inference_server.adapters.binding import Binding
from inference_server.adapters.metrics import Count, Duration
from inference_server.adapters.records import AdapterState, AdapterWeight, Skipped
from inference_server.adapters.slot_state import Pin
from inference_server.adapters.store import AdapterStore
from inference_server.errors import RequestError
from wuliart_contract.adapter_names import same_name
from wuliart_contract.status import Reason

log = logging.getLogger(__name__)

PROMOTION_SECONDS = 10.0
"""How long a request waits for an adapter that is not resident."""

PROMOTION_RETRY_SECONDS = 2.0

MANAGER_RETURN_SECONDS = 5.0
"""How long a request that waits already goes on without a manager; a supervised one is back in
less than a second."""


class Binder:
    """The images' side of an `AdapterStore`.

    Args:
        store: what is bound.
        skip_bad: whether an image is generated without an adapter that does not exist or was
            refused. What passes by itself (no manager, no free slot, a file being read) stays a
            failure.
    """

    def __init__(self, store: AdapterStore, skip_bad: bool = False) -> None:
        self._store = store
        self._skip_bad = skip_bad

    def check(self, wanted: Sequence[AdapterWeight]) -> None:
        """Refuses at once what cannot be generated.

        Raises:
            RequestError: ADAPTER_NOT_FOUND, ADAPTER_REFUSED, MANAGER_UNAVAILABLE, or, for more
                adapters than the server keeps at once or one under two names, INVALID_REQUEST.
        """
        wanted = self._spelled(wanted)
        slots = self._store.slots
        absent = [w for w in wanted if slots.published(w.name) is None]
        _, skipped = self._look_at(absent)
        drawn = {w.name for w in wanted} - {s.name for s in skipped}
        room = slots.resident_limit - len(slots.kept - set(map(same_name, drawn)))
        if len(drawn) > room:
            raise binding_errors.too_many(len(drawn), room)

    def try_bind(self, wanted: Sequence[AdapterWeight]) -> Binding | None:
        """Pins one exact version of each adapter if all are resident; None if one is not."""
        try:
            wanted = self._spelled(wanted)
            absent = [w for w in wanted if self._store.slots.published(w.name) is None]
            missing, skipped = self._look_at(absent)
        except RequestError:
            return None  # `bind` says so
        if missing:
            return None
        pins = {w.name: pin for w in wanted if (pin := self._store.slots.pin(w.name))}
        return _binding(wanted, pins, skipped)

    async def bind(self, wanted: Sequence[AdapterWeight]) -> Binding:
        """Pins one exact version of each adapter, having absent ones loaded first.

        Raises:
            RequestError: as `check`, or NO_FREE_SLOT.
        """
        wanted = self._spelled(wanted)
        pins: dict[str, Pin] = {}
        asked: dict[str, tuple[str, float]] = {}
        absent_since: dict[str, float] = {}
        deadline = time.monotonic() + PROMOTION_SECONDS
        attached = time.monotonic()
        try:
            while True:
                changed = self._store.changed
                now = time.monotonic()
                if self._store.manager_attached:
                    attached = now
                for name in [w.name for w in wanted if w.name not in pins]:
                    if pin := self._store.slots.pin(name):
                        pins[name] = pin
                        if name in absent_since:
                            self._promoted(now - absent_since[name])
                patient = bool(asked) and now - attached < MANAGER_RETURN_SECONDS
                missing, skipped = self._look_at([w for w in wanted if w.name not in pins], patient)
                if not missing:
                    return _binding(wanted, pins, skipped)
                for name in missing:
                    absent_since.setdefault(name, now)
                    self._ask_for(name, asked, now)
                if self._wait_is_for_images(missing, len(pins)):
                    deadline = now + PROMOTION_SECONDS
                if now >= deadline:
                    if self._store.slots.can_reserve(missing[0]):
                        raise binding_errors.not_loaded(missing[0], PROMOTION_SECONDS)
                    raise binding_errors.no_slot(missing[0])
                limits = [PROMOTION_RETRY_SECONDS, deadline - now]
                if not self._store.manager_attached:
                    limits.append(attached + MANAGER_RETURN_SECONDS - now)
                timeout = min(limits)
                try:
                    # Not wait_for: Python 3.11's loses a cancellation that comes with the news.
                    async with asyncio.timeout(timeout):
                        await changed.wait()
                except TimeoutError:
                    self._store.expire()
        except BaseException:
            for pin in pins.values():
                self._store.slots.release(pin)
            raise

    def release(self, binding: Binding) -> None:
        """The binding's image has done its last work on the device."""
        for pin in binding.pins:
            self._store.slots.release(pin)
        self._store.notify()

    # -- inside -----------------------------------------------------------------------------

    def _spelled(self, wanted: Sequence[AdapterWeight]) -> list[AdapterWeight]:
        """The same adapters under the names that their files have.

        Raises:
            RequestError: INVALID_REQUEST, two names are one.
        """
        names = [self._store.spelled(adapter.name) for adapter in wanted]
        for n, name in enumerate(names):
            if name in names[:n]:
                raise binding_errors.repeated(name)
        return [replace(adapter, name=name) for adapter, name in zip(wanted, names, strict=True)]

    def _look_at(
        self, absent: Sequence[AdapterWeight], patient: bool = False
    ) -> tuple[list[str], list[Skipped]]:
        """Of adapters that are not resident: the names to be loaded, and those to do without.

        Args:
            absent: the adapters.
            patient: whether a manager that is gone will be back.

        Raises:
            RequestError: one can be neither.
        """
        missing, skipped = [], []
        for name in [adapter.name for adapter in absent]:
            error = self._objection(name)
            if error is None or (patient and error.reason is Reason.MANAGER_UNAVAILABLE):
                missing.append(name)
            elif self._lasts(error):
                skipped.append(Skipped(name, error.reason, error.message))
            else:
                raise error
        return missing, skipped

    def _objection(self, name: str) -> RequestError | None:
        """Why the adapter cannot be loaded; None if it can."""
        adapter = self._store.catalog.get(name)
        if not self._store.reported and adapter is None:
            return binding_errors.none_reported(name)
        if adapter is None and name not in self._store.pending:
            return binding_errors.not_found(name, self._store.catalog.nearest(name))
        if adapter is not None and adapter.state is AdapterState.REFUSED:
            return binding_errors.refused(name, adapter.entry.refusal_reason)
        if not self._store.manager_attached:
            return binding_errors.no_manager(name)
        if adapter is not None and adapter.state is AdapterState.WAITING:
            return binding_errors.not_finished(name, adapter.entry.waiting_reason)
        return binding_errors.being_read(name) if adapter is None else None

    def _lasts(self, error: RequestError) -> bool:
        """Whether the adapter is to be skipped: it is bad, and not only unknown so far."""
        bad = (Reason.ADAPTER_NOT_FOUND, Reason.ADAPTER_REFUSED)
        return self._skip_bad and error.reason in bad

    def _promoted(self, seconds: float) -> None:
        self._store.metrics.count(Count.PROMOTED)
        self._store.metrics.observe(Duration.PROMOTION_WAIT, seconds)

    def _wait_is_for_images(self, missing: Sequence[str], own_pins: int) -> bool:
        # Images end by themselves, however long they take; only a manager can be stuck.
        others = self._store.slots.pin_count > own_pins
        return others and not any(self._store.slots.can_reserve(name) for name in missing)

    def _ask_for(self, name: str, asked: dict[str, tuple[str, float]], now: float) -> None:
        """Of each manager anew, and again if it does not deliver."""
        whom, when = asked.get(name, ("", 0.0))
        session = self._store.session_id
        if not session or (whom == session and now - when < PROMOTION_RETRY_SECONDS):
            return
        # Asking while every slot is pinned would only fail; the release that changes it wakes us.
        if self._store.slots.can_reserve(name):
            self._store.promote(name)
            asked[name] = (session, now)


def _binding(
    wanted: Sequence[AdapterWeight], pins: Mapping[str, Pin], skipped: Sequence[Skipped]
) -> Binding:
    for adapter in skipped:
        log.warning("an image is generated without an adapter: %s", adapter.message)
    used = tuple(w for w in wanted if w.name in pins)
    return Binding(used, tuple(pins[w.name] for w in used), tuple(skipped))
