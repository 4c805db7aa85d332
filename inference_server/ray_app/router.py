"""`Affinity` as a request router of Ray Serve.

Owns the translation between Serve's replicas and the rule. Serve itself waits where all replicas
are full, notices those that die, and counts how much each has to do.
"""

from __future__ import annotations

from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from inference_server.ray_app.affinity import Affinity

ADAPTERS = "adapters"
"""Keyword of `Replica.draw` that the router reads."""


class AffinityRouter(RequestRouter):
    """Sends an image to a replica that holds its adapters, if it is free enough."""

    def initialize_state(self, **kwargs: Any) -> None:
        """See `ray.serve.config.RequestRouterConfig`; takes `slots`."""
        self._affinity = Affinity(kwargs["slots"])

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Serve has started or lost some."""
        super().update_replicas(replicas)
        self._affinity.keep_only([r.replica_id.unique_id for r in replicas])

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """The best alone; then the others one by one, if it is full meanwhile."""
        by_id = {r.replica_id.unique_id: r for r in candidate_replicas}
        for name, replica in by_id.items():
            self._affinity.told(name, replica.routing_stats.get("resident", ()))
        loads = {name: self._load(replica) for name, replica in by_id.items()}
        return [[by_id[name]] for name in self._affinity.order(loads, _adapters(pending_request))]

    def on_request_routed(
        self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any
    ) -> None:
        """The replica has taken it, and will hold its adapters."""
        self._affinity.given(replica_id.unique_id, _adapters(pending_request))

    def _load(self, replica: RunningReplica) -> int:
        known = self.replica_queue_len_cache.get(replica.replica_id)
        return replica.max_ongoing_requests if known is None else known


def _adapters(request: PendingRequest | None) -> list[str]:
    return [] if request is None else list(request.kwargs.get(ADAPTERS, ()))
