"""Names, labels and help texts of the metrics that a single server and a fleet's front share."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from wuliart_contract.status import Reason


def gauge(name: str, text: str, value: float) -> Metric:
    """Returns a gauge with one sample."""
    return GaugeMetricFamily(f"wuliart_{name}", text, value)


def counter(name: str, text: str, value: float) -> Metric:
    """Returns a counter with one sample; `name` is without its suffix "_total"."""
    return CounterMetricFamily(f"wuliart_{name}", text, value)


def queue_length(images: int) -> Metric:
    """Returns the number of images that wait or run."""
    return gauge("queue_length", "Images waiting or being generated.", images)


def queue_capacity(images: int) -> Metric:
    """Returns the value of `--queue`."""
    return gauge("queue_capacity", "Images that may wait.", images)


def adapter_watchers(streams: int) -> Metric:
    """Returns the number of open `WatchAdapters` calls."""
    return gauge("adapter_watchers", "Open WatchAdapters streams.", streams)


def errors(counts: Mapping[Reason, int]) -> Metric:
    """Returns the number of failed requests for each `ErrorInfo.reason`."""
    family = CounterMetricFamily("wuliart_errors", "Failed requests.", labels=["reason"])
    for reason, count in counts.items():
        family.add_metric([reason.value], count)
    return family
