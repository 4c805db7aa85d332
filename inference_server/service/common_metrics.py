"""The figures that a single server and the front of a fleet both have: names, labels, texts.

Knows neither an engine nor replicas, so that a front, which imports neither, can say the same.
"""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from wuliart_contract.status import Reason


def gauge(name: str, text: str, value: float) -> Metric:
    """A number that goes up and down."""
    return GaugeMetricFamily(f"wuliart_{name}", text, value)


def counter(name: str, text: str, value: float) -> Metric:
    """A number that only grows while the process lives."""
    return CounterMetricFamily(f"wuliart_{name}", text, value)


def queue_length(images: int) -> Metric:
    """Of the scheduler, or of all that the front has let in."""
    return gauge("queue_length", "Images waiting or being generated.", images)


def queue_capacity(images: int) -> Metric:
    """Of `--queue`."""
    return gauge("queue_capacity", "Images that may wait.", images)


def adapter_watchers(streams: int) -> Metric:
    """Of `WatchAdapters`."""
    return gauge("adapter_watchers", "Open streams of adapters' changes.", streams)


def errors(counts: Mapping[Reason, int]) -> Metric:
    """Requests that ended in an error, by the reason that their clients were told."""
    family = CounterMetricFamily("wuliart_errors", "Failed requests.", labels=["reason"])
    for reason, count in counts.items():
        family.add_metric([reason.value], count)
    return family
