"""Metrics of adapters: counts of events, and histograms of durations.

Kept in plain memory, from which the metrics endpoint reads them. Used on the event loop only.
"""

from __future__ import annotations

from enum import StrEnum

from inference_server.histogram import Histogram


class Count(StrEnum):
    """The name of a counter."""

    LOADS = "loads"
    """A slot was verified and published."""
    REFUSED = "refused"
    """The manager refused a new or changed file."""
    PROMOTED = "promoted"
    """An adapter became resident while an image waited for it."""
    EVICTED = "evicted"
    """An idle adapter was evicted for another name."""
    DRAINED = "drained"
    """A slot became free after the last image of its version."""
    CHECKSUM_FAILURES = "checksum_failures"
    """A slot did not hold what was committed."""
    LEASE_EXPIRIES = "lease_expiries"
    """A writer reserved a slot and did not commit it in time."""


class Duration(StrEnum):
    """The name of a histogram; values in seconds."""

    DETECT_TO_READY = "detect_to_ready_seconds"
    """From the manager's first look at a new or changed file until it was published."""
    COPY = "copy_seconds"
    """The manager's time to write a slot, by its own clock."""
    VERIFY = "verify_seconds"
    """From a commit to the end of its copy to the device and its checksum."""
    DRAIN = "drain_seconds"
    """From the moment a version lost its name until its last image was done."""
    PROMOTION_WAIT = "promotion_wait_seconds"
    """From the moment a request found an adapter absent until it was resident."""


class AdapterMetrics:
    """All counters and histograms, from 0 at the server's start."""

    def __init__(self) -> None:
        self.counts: dict[Count, int] = dict.fromkeys(Count, 0)
        self.durations: dict[Duration, Histogram] = {what: Histogram() for what in Duration}

    def count(self, what: Count) -> None:
        """Counts one event."""
        self.counts[what] += 1

    def observe(self, what: Duration, seconds: float) -> None:
        """Adds one duration."""
        self.durations[what].observe(seconds)
