"""The outcome of each accepted request: counted, logged as one line, and traced.

The first outcome counts; later ones of the same request are ignored. Prompts are private: a log
line has the prompt only if the operator asked for that.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from inference_server.scheduler import spans
from inference_server.scheduler.events import Timings
from inference_server.scheduler.metrics import ImageMetrics, Stage
from inference_server.scheduler.running_request import RunningRequest
from wuliart_contract.status import Reason

log = logging.getLogger(__name__)


class Outcomes:
    """Records outcomes.

    Args:
        metrics: counts them.
        log_prompts: adds the prompt to the log line.
    """

    def __init__(self, metrics: ImageMetrics, *, log_prompts: bool) -> None:
        self._metrics = metrics
        self._log_prompts = log_prompts

    def completed(self, running: RunningRequest, timings: Timings, nbytes: int) -> None:
        """Records an image that was handed over as a JPEG of `nbytes` bytes."""
        if self._is_first(running):
            seconds = {stage: float(getattr(timings, stage)) for stage in Stage}
            self._metrics.complete(seconds)
            self._write(running, "completed", seconds, bytes=nbytes)

    def cancelled(self, running: RunningRequest) -> None:
        """Records that the client left."""
        if self._is_first(running):
            self._metrics.cancel()
            self._write(running, "cancelled", _seconds_so_far(running))

    def failed(self, running: RunningRequest, reason: Reason) -> None:
        """Records a request that ended without an image."""
        if self._is_first(running):
            self._metrics.fail(reason)
            self._write(running, "failed", _seconds_so_far(running), reason=reason.value)

    def _is_first(self, running: RunningRequest) -> bool:
        if running.outcome_recorded:
            return False
        running.outcome_recorded = True
        return True

    def _write(
        self,
        running: RunningRequest,
        outcome: str,
        seconds: Mapping[Stage, float],
        **facts: str | int,
    ) -> None:
        request = running.request
        if self._log_prompts:
            facts["prompt"] = request.prompt
        fields = {
            "request_id": running.id,
            "outcome": outcome,
            "steps": request.steps,
            "adapters": [adapter.name for adapter in request.adapters],
            **{f"{stage}_seconds": round(took, 6) for stage, took in seconds.items()},
            **facts,
        }
        log.info("image %s", outcome, extra=fields)
        spans.write(running, outcome, seconds, error=str(facts.get("reason", "")))


def _seconds_so_far(running: RunningRequest) -> Mapping[Stage, float]:
    return {Stage.TOTAL: time.perf_counter() - running.arrived_at}
