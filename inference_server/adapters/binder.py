"""Binds a request's adapters to exact versions, and has absent ones loaded first.

An adapter that cannot be used fails the request, or the image is generated without it
(`--on-bad-adapter`). The limits below bound how long a request waits for one to be loaded.
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
"""How long a request waits for an adapter that is not resident, without images to wait for."""

PROMOTION_RETRY_SECONDS = 2.0
"""Interval at which a manager is asked again for the same adapter."""

MANAGER_RETURN_SECONDS = 5.0
"""How long a waiting request keeps waiting without a manager; a supervised manager restarts in less
than a second."""


class Binder:
    """Binds the adapters of requests.

    Args:
        store: the server's adapters.
        skip_bad: generate images without adapters that do not exist or were refused. Errors that
            may pass (no manager, no free slot, a file being read) still fail the request.
    """

    def __init__(self, store: AdapterStore, skip_bad: bool = False) -> None:
        self._store = store
        self._skip_bad = skip_bad

    def check(self, adapters: Sequence[AdapterWeight]) -> None:
        """Raises the error of a request that cannot be generated, before it is queued.

        Raises:
            RequestError: ADAPTER_NOT_FOUND, ADAPTER_REFUSED, MANAGER_UNAVAILABLE, or, for more
                adapters than the server keeps at once or one under two names, INVALID_REQUEST.
        """
        adapters = self._spelled(adapters)
        slots = self._store.slots
        _, skipped = self._sort_absent(self._absent(adapters))
        used = {a.name for a in adapters} - {s.name for s in skipped}
        limit = slots.resident_limit - len(slots.kept - set(map(same_name, used)))
        if len(used) > limit:
            raise binding_errors.too_many(len(used), limit)

    def try_bind(self, adapters: Sequence[AdapterWeight]) -> Binding | None:
        """Pins one exact version of each adapter if all are resident, else returns None."""
        try:
            adapters = self._spelled(adapters)
            missing, skipped = self._sort_absent(self._absent(adapters))
        except RequestError:
            return None  # `bind` raises it
        if missing:
            return None
        pins = {a.name: pin for a in adapters if (pin := self._store.slots.pin(a.name))}
        return _binding(adapters, pins, skipped)

    async def bind(self, adapters: Sequence[AdapterWeight]) -> Binding:
        """Pins one exact version of each adapter, and has absent ones loaded first.

        Raises:
            RequestError: as `check`, or NO_FREE_SLOT.
        """
        adapters = self._spelled(adapters)
        pins: dict[str, Pin] = {}
        promoted: dict[str, tuple[str, float]] = {}
        absent_since: dict[str, float] = {}
        deadline = time.monotonic() + PROMOTION_SECONDS
        attached = time.monotonic()
        try:
            while True:
                changed = self._store.changed
                now = time.monotonic()
                if self._store.manager_attached:
                    attached = now
                for name in [a.name for a in adapters if a.name not in pins]:
                    if pin := self._store.slots.pin(name):
                        pins[name] = pin
                        if name in absent_since:
                            self._count_promotion(now - absent_since[name])
                missing, skipped = self._sort_absent(
                    [a.name for a in adapters if a.name not in pins],
                    manager_returns=bool(promoted) and now - attached < MANAGER_RETURN_SECONDS,
                )
                if not missing:
                    return _binding(adapters, pins, skipped)
                for name in missing:
                    absent_since.setdefault(name, now)
                    self._promote(name, promoted, now)
                if self._waits_for_images(missing, len(pins)):
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
        """Releases the pins of an image that has done its last work on the device."""
        for pin in binding.pins:
            self._store.slots.release(pin)
        self._store.notify()

    def _absent(self, adapters: Sequence[AdapterWeight]) -> list[str]:
        return [a.name for a in adapters if self._store.slots.published(a.name) is None]

    def _spelled(self, adapters: Sequence[AdapterWeight]) -> list[AdapterWeight]:
        """Returns the same adapters under the names that their files have.

        Raises:
            RequestError: INVALID_REQUEST, two names are one.
        """
        names = [self._store.spelled(adapter.name) for adapter in adapters]
        for n, name in enumerate(names):
            if name in names[:n]:
                raise binding_errors.repeated(name)
        return [replace(adapter, name=name) for adapter, name in zip(adapters, names, strict=True)]

    def _sort_absent(
        self, absent: Sequence[str], *, manager_returns: bool = False
    ) -> tuple[list[str], list[Skipped]]:
        """Sorts adapters that are not resident into those to load and those to skip.

        Args:
            absent: the adapters' names.
            manager_returns: treat a missing manager as one that is about to return.

        Raises:
            RequestError: an adapter can be neither loaded nor skipped.
        """
        missing, skipped = [], []
        for name in absent:
            error = self._load_error(name)
            if error is None or (manager_returns and error.reason is Reason.MANAGER_UNAVAILABLE):
                missing.append(name)
            elif self._is_skipped(error):
                skipped.append(Skipped(name, error.reason, error.message))
            else:
                raise error
        return missing, skipped

    def _load_error(self, name: str) -> RequestError | None:
        """Returns the error of an adapter that cannot be loaded now, None if it can."""
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

    def _is_skipped(self, error: RequestError) -> bool:
        """Returns True if the error is of the adapter itself, and bad adapters are skipped."""
        bad = (Reason.ADAPTER_NOT_FOUND, Reason.ADAPTER_REFUSED)
        return self._skip_bad and error.reason in bad

    def _count_promotion(self, seconds: float) -> None:
        self._store.metrics.count(Count.PROMOTED)
        self._store.metrics.observe(Duration.PROMOTION_WAIT, seconds)

    def _waits_for_images(self, missing: Sequence[str], own_pins: int) -> bool:
        # Images always end, however long they take; only a manager can be stuck.
        others = self._store.slots.pin_count > own_pins
        return others and not any(self._store.slots.can_reserve(name) for name in missing)

    def _promote(self, name: str, promoted: dict[str, tuple[str, float]], now: float) -> None:
        """Asks the manager to load an adapter; asks each manager, and again if it does not."""
        last_session, when = promoted.get(name, ("", 0.0))
        session = self._store.session_id
        if not session or (last_session == session and now - when < PROMOTION_RETRY_SECONDS):
            return
        # With every slot pinned the manager could not reserve one. The next release wakes `bind`.
        if self._store.slots.can_reserve(name):
            self._store.promote(name)
            promoted[name] = (session, now)


def _binding(
    adapters: Sequence[AdapterWeight], pins: Mapping[str, Pin], skipped: Sequence[Skipped]
) -> Binding:
    for adapter in skipped:
        log.warning("an image is generated without an adapter: %s", adapter.message)
    used = tuple(a for a in adapters if a.name in pins)
    return Binding(used, tuple(pins[a.name] for a in used), tuple(skipped))
