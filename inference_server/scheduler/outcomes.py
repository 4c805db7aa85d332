"""What became of each accepted request: counted, logged as one line, and traced.

Owns that this happens once per job, whatever comes after its end, and what such a line says. Knows
nothing of why a job ended there. A prompt is a client's own business: it is left out unless the
operator asked for it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from inference_server.scheduler import spans
from inference_server.scheduler.events import Timings
from inference_server.scheduler.metrics import ImageMetrics, Stage
from inference_server.scheduler.request import Job
from wuliart_contract.status import Reason

log = logging.getLogger(__name__)


class Ledger:
    """The end of every job.

    Args:
        metrics: where ends are counted.
        log_prompts: whether a line may say what was asked for.
    """

    def __init__(self, metrics: ImageMetrics, log_prompts: bool) -> None:
        self._metrics = metrics
        self._log_prompts = log_prompts

    def completed(self, job: Job, timings: Timings, nbytes: int) -> None:
        """Its image is handed over, of that many bytes as a JPEG."""
        if self._ends(job):
            seconds = {stage: float(getattr(timings, stage)) for stage in Stage}
            self._metrics.complete(seconds)
            self._write(job, "completed", seconds, bytes=nbytes)

    def cancelled(self, job: Job) -> None:
        """Its client has left."""
        if self._ends(job):
            self._metrics.cancel()
            self._write(job, "cancelled", _so_far(job))

    def failed(self, job: Job, reason: Reason) -> None:
        """It ends without an image."""
        if self._ends(job):
            self._metrics.fail(reason)
            self._write(job, "failed", _so_far(job), reason=reason.value)

    def _ends(self, job: Job) -> bool:
        if job.ended:
            return False
        job.ended = True
        return True

    def _write(
        self, job: Job, outcome: str, seconds: Mapping[Stage, float], **facts: str | int
    ) -> None:
        request = job.request
        if self._log_prompts:
            facts["prompt"] = request.prompt
        fields = {
            "request_id": job.id,
            "outcome": outcome,
            "steps": request.steps,
            "adapters": [wanted.name for wanted in request.adapters],
            **{f"{stage}_seconds": round(took, 6) for stage, took in seconds.items()},
            **facts,
        }
        log.info("image %s", outcome, extra=fields)
        spans.write(job, outcome, seconds, str(facts.get("reason", "")))


def _so_far(job: Job) -> Mapping[Stage, float]:
    return {Stage.TOTAL: time.perf_counter() - job.arrived_at}
