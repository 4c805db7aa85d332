"""Metrics of a fleet: those of the front and of every replica, with the label `replica`.

One scrape of the front returns the whole fleet, in the metric names of a single server.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.metrics_core import Metric

from inference_server.ray_app.fleet_catalog import FleetCatalog
from inference_server.ray_app.replica_calls import ReplicaCalls
from inference_server.service import metric_families as families
from inference_server.service.metric_families import counter, gauge
from wuliart_contract.status import Reason

FRONT_LABEL = "front"
"""The front's value of the label `replica`."""


def metrics_of_front(
    catalog: FleetCatalog, calls: ReplicaCalls, queue_capacity: int
) -> Iterator[Metric]:
    """Yields the front's own metrics; to be called on its event loop."""
    yield families.queue_length(calls.waiting)
    yield families.queue_capacity(queue_capacity)
    yield families.adapter_watchers(catalog.watchers)
    yield gauge("fleet_replicas", "Replicas that report.", len(catalog.replicas))
    counts = calls.counts
    counters = {
        "requests": ("Requests that a replica has accepted.", counts.requests),
        "resident": ("Accepted requests that found all their adapters in memory.", counts.resident),
        "retries": ("Requests moved to another replica because theirs died.", counts.retries),
    }
    for name, (text, value) in counters.items():
        yield counter(f"fleet_{name}", text, value)
    yield families.errors({reason: counts.errors[reason] for reason in Reason})


def merged(by_replica: Mapping[str, Iterable[Metric]]) -> Iterator[Metric]:
    """Yields one family per metric name, with each sample labelled by its replica."""
    merged_families: dict[str, Metric] = {}
    for replica, metrics in by_replica.items():
        for metric in metrics:
            family = merged_families.setdefault(
                metric.name, Metric(metric.name, metric.documentation, metric.type)
            )
            family.samples += [
                sample._replace(labels={**sample.labels, "replica": replica})
                for sample in metric.samples
            ]
    yield from merged_families.values()
