"""Names, labels and help texts of a server's metrics, read from the parts that count them."""

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
from inference_server.service import metric_families as families
from inference_server.service.backend import Backend
from inference_server.service.metric_families import counter, gauge

COUNTS: Final = {
    Count.LOADS: "Adapter versions verified and published.",
    Count.REFUSED: "New or changed adapter files that were refused.",
    Count.PROMOTED: "Adapters loaded while an image waited for them.",
    Count.EVICTED: "Idle adapters evicted in favour of another name.",
    Count.DRAINED: "Slots freed when the last image that used a replaced version was complete.",
    Count.CHECKSUM_FAILURES: "Commits whose checksum did not match the slot.",
    Count.LEASE_EXPIRIES: "Reservations of slots that were not committed in time.",
}

DURATIONS: Final = {
    Duration.DETECT_TO_READY: "Time from noticing a new or changed file to publishing its adapter.",
    Duration.COPY: "Time that the manager took to write a slot.",
    Duration.VERIFY: "Time to copy a committed slot to the device and to compute its checksum.",
    Duration.DRAIN: "Time from unpublishing a version to the end of its last image.",
    Duration.PROMOTION_WAIT: "Time that an image waited for an adapter to be loaded.",
}


def metrics_of(backend: Backend) -> Iterator[Metric]:
    """Yields every metric; to be called on the event loop, where they change."""
    yield InfoMetricFamily(
        "wuliart_server",
        "Version, model and device of the server.",
        {
            "version": VERSION,
            "model": backend.engine.model.name,
            "device": backend.engine.model.device.type,
        },
    )
    scheduler = backend.scheduler
    yield families.queue_length(scheduler.queue_length)
    yield families.queue_capacity(scheduler.capacity)
    yield from _images(scheduler.metrics)
    yield from _memory(backend)
    yield from _slots(backend.adapters)
    yield from _adapters(backend.adapters.metrics)


def _images(metrics: ImageMetrics) -> Iterator[Metric]:
    yield counter("images_completed", "Images sent to their clients.", metrics.completed)
    yield counter(
        "images_cancelled", "Accepted requests whose client left before the end.", metrics.cancelled
    )
    yield families.errors(metrics.errors)
    stages = {stage.value: histogram for stage, histogram in metrics.stages.items()}
    yield _histograms("stage_seconds", "Time of completed images, by stage.", "stage", stages)
    yield _histogram(
        "step_seconds", "Duration of a step, for all images that shared it.", metrics.steps
    )
    yield _histogram("step_images", "Images that shared a step.", metrics.batches)


def _memory(backend: Backend) -> Iterator[Metric]:
    labels = ["segment", "location"]
    size = GaugeMetricFamily(
        "wuliart_memory_size_bytes", "Memory set aside at start.", labels=labels
    )
    used = GaugeMetricFamily(
        "wuliart_memory_used_bytes", "Part of the memory set aside that is in use.", labels=labels
    )
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
    yield gauge("adapter_pins", "Pins of slots by running images.", store.slots.pin_count)
    attached = int(store.manager_attached)
    yield gauge("manager_attached", "1 if a LoRA manager is attached, else 0.", attached)
    yield families.adapter_watchers(store.catalog.watchers)


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
