"""The figures of a server, by their names.

Owns the names of the metrics and their labels. Counts nothing itself: it reads the ready server's
parts, on the event loop, which is where they change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric

from inference_server import VERSION
from inference_server.adapters.metrics import AdapterMetrics, Count, Duration
from inference_server.adapters.slot_state import SlotState
from inference_server.adapters.store import AdapterStore
from inference_server.histogram import Histogram
from inference_server.scheduler.metrics import ImageMetrics
from inference_server.service import common_metrics as common
from inference_server.service.backend import Backend
from inference_server.service.common_metrics import counter, gauge

COUNTS: Final = {
    Count.LOADS: "Adapter versions verified and published.",
    Count.REFUSED: "Adapter files that came, or changed, and were refused.",
    Count.PROMOTED: "Adapters that became resident while an image waited for them.",
    Count.EVICTED: "Idle adapters that made room for another name.",
    Count.DRAINED: "Adapter versions whose last image was done and whose slot came free.",
    Count.CHECKSUM_FAILURES: "Slots that did not hold what was committed.",
    Count.LEASE_EXPIRIES: "Reservations of slots that were not committed in time.",
}

DURATIONS: Final = {
    Duration.DETECT_TO_READY: "From the manager's seeing a file until its adapter was published.",
    Duration.COPY: "What the manager took to write a slot.",
    Duration.VERIFY: "From a commit to the end of its checksum, and of the copy to the device.",
    Duration.DRAIN: "From the moment a version lost its name until its last image was done.",
    Duration.PROMOTION_WAIT: "From an image's finding an adapter absent until it was resident.",
}


def metrics_of(backend: Backend) -> Iterator[Metric]:
    """Every metric there is, on the event loop."""
    yield InfoMetricFamily(
        "wuliart_server",
        "What is running.",
        {
            "version": VERSION,
            "model": backend.engine.model.name,
            "device": backend.engine.model.device.type,
        },
    )
    scheduler = backend.scheduler
    yield common.queue_length(scheduler.queue_length)
    yield common.queue_capacity(scheduler.capacity)
    yield from _images(scheduler.metrics)
    yield from _memory(backend)
    yield from _slots(backend.adapters)
    yield from _adapters(backend.adapters.metrics)


def _images(metrics: ImageMetrics) -> Iterator[Metric]:
    yield counter("images_completed", "Images handed to their clients.", metrics.completed)
    yield counter("images_cancelled", "Images whose client left.", metrics.cancelled)
    yield common.errors(metrics.errors)
    stages = {stage.value: histogram for stage, histogram in metrics.stages.items()}
    yield _histograms("stage_seconds", "Completed images, by stage.", "stage", stages)
    yield _histogram("step_seconds", "What a step took all who shared it.", metrics.steps)
    yield _histogram("step_images", "Images that shared a step.", metrics.batches)


def _memory(backend: Backend) -> Iterator[Metric]:
    labels = ["segment", "location"]
    size = GaugeMetricFamily(
        "wuliart_memory_size_bytes", "Memory set aside at start.", labels=labels
    )
    used = GaugeMetricFamily("wuliart_memory_used_bytes", "Of it, in use now.", labels=labels)
    for segment in backend.segments():
        size.add_metric([segment.name, segment.location], segment.size_bytes)
        used.add_metric([segment.name, segment.location], segment.used_bytes)
    yield from (size, used)


def _slots(store: AdapterStore) -> Iterator[Metric]:
    states = Counter(slot.state for slot in store.slots.slots)
    slots = GaugeMetricFamily("wuliart_adapter_slots", "Slots, by state.", labels=["state"])
    for state in SlotState:
        slots.add_metric([state.value], states[state])
    yield slots
    yield gauge("adapter_pins", "Slots' uses by images under way.", store.slots.pin_count)
    attached = int(store.manager_attached)
    yield gauge("manager_attached", "Whether a LoRA manager is attached.", attached)
    yield common.adapter_watchers(store.catalog.watchers)


def _adapters(metrics: AdapterMetrics) -> Iterator[Metric]:
    for count, number in metrics.counts.items():
        yield counter(f"adapter_{count}", COUNTS[count], number)
    for duration, histogram in metrics.durations.items():
        yield _histogram(f"adapter_{duration}", DURATIONS[duration], histogram)


def _histogram(name: str, text: str, histogram: Histogram) -> Metric:
    family = HistogramMetricFamily(f"wuliart_{name}", text)
    family.add_metric([], _buckets(histogram), histogram.sum)
    return family


def _histograms(name: str, text: str, label: str, histograms: Mapping[str, Histogram]) -> Metric:
    family = HistogramMetricFamily(f"wuliart_{name}", text, labels=[label])
    for value, histogram in histograms.items():
        family.add_metric([value], _buckets(histogram), histogram.sum)
    return family


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    bounds = [(str(bound), float(count)) for bound, count in histogram.cumulative()]
    return [*bounds, ("+Inf", float(histogram.count))]
