"""The figures of a fleet: each replica's own, under the replica's name, and the front's.

Owns their merge and the names of what only a fleet counts. The front listens for all: a scrape of
one address is the whole fleet, in the metrics that a single server has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.metrics_core import Metric

from inference_server.ray_app.fleet import Fleet
from inference_server.ray_app.replica_calls import ReplicaCalls
from inference_server.service import common_metrics as common
from inference_server.service.common_metrics import counter, gauge
from wuliart_contract.status import Reason

FRONT_LABEL = "front"
"""The front's label where replicas have their name."""


def metrics_of_front(fleet: Fleet, calls: ReplicaCalls, queue: int) -> Iterator[Metric]:
    """What the front knows by itself, on its event loop; `queue` is how many may wait there."""
    yield common.queue_length(calls.waiting)
    yield common.queue_capacity(queue)
    yield common.adapter_watchers(fleet.watchers)
    yield gauge("fleet_replicas", "Replicas that report.", len(fleet.replicas))
    counts = calls.counts
    counters = {
        "requests": ("Requests that a replica has taken.", counts.requests),
        "resident": ("Of them, those that found all their adapters in memory.", counts.resident),
        "again": ("Requests given to another replica because theirs has died.", counts.again),
    }
    for name, (text, value) in counters.items():
        yield counter(f"fleet_{name}", text, value)
    yield common.errors({reason: counts.errors[reason] for reason in Reason})


def merged(by_replica: Mapping[str, Iterable[Metric]]) -> Iterator[Metric]:
    """All replicas' metrics as one of each name, its samples labelled with their replica."""
    families: dict[str, Metric] = {}
    for replica, metrics in by_replica.items():
        for metric in metrics:
            family = families.setdefault(
                metric.name, Metric(metric.name, metric.documentation, metric.type)
            )
            family.samples += [
                sample._replace(labels={**sample.labels, "replica": replica})
                for sample in metric.samples
            ]
    yield from families.values()
