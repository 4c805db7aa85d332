"""Figures of the adapters' life: how often each thing happened, and how long it took.

Owns the names, the counts and the durations. Plain memory without I/O: whoever exports the figures
reads the same object. Knows nothing of clocks, slots or gRPC; the event loop is its only client.
"""

from __future__ import annotations

from enum import StrEnum

from inference_server.histogram import Histogram


class Count(StrEnum):
    """What is counted."""

    LOADS = "loads"
    """A slot was verified and published."""
    REFUSED = "refused"
    """A file came, or changed, and the manager refused it."""
    PROMOTED = "promoted"
    """An adapter became resident while an image waited for it."""
    EVICTED = "evicted"
    """An idle adapter made room for another name."""
    DRAINED = "drained"
    """A version's last image was done and its slot came free."""
    CHECKSUM_FAILURES = "checksum_failures"
    """A slot did not hold what was committed."""
    LEASE_EXPIRIES = "lease_expiries"
    """A writer reserved a slot and did not commit it in time."""


class Duration(StrEnum):
    """What is timed, in seconds."""

    DETECT_TO_READY = "detect_to_ready_seconds"
    """From the manager's seeing a new or changed file until it was published."""
    COPY = "copy_seconds"
    """What the manager took to write a slot, by its own clock."""
    VERIFY = "verify_seconds"
    """From a commit to the end of its checksum, and of the copy to the device."""
    DRAIN = "drain_seconds"
    """From the moment a version lost its name until its last image was done."""
    PROMOTION_WAIT = "promotion_wait_seconds"
    """From the moment an image's turn found an adapter absent until it was resident."""


class AdapterMetrics:
    """All figures, from 0 at the server's start."""

    def __init__(self) -> None:
        self.counts: dict[Count, int] = dict.fromkeys(Count, 0)
        self.durations: dict[Duration, Histogram] = {what: Histogram() for what in Duration}

    def count(self, what: Count) -> None:
        """It happened once more."""
        self.counts[what] += 1

    def observe(self, what: Duration, seconds: float) -> None:
        """It took that long."""
        self.durations[what].observe(seconds)
