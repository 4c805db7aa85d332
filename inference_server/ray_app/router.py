"""`Affinity` as a request router of Ray Serve.

Serve itself queues requests while all replicas are full, notices replicas that die, and counts the
requests of each.
"""

from __future__ import annotations

from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from inference_server.ray_app.affinity import Affinity

ADAPTERS = "adapters"
"""Keyword argument of `Replica.generate` that the router reads."""


class AffinityRouter(RequestRouter):
    """Sends a request to a replica that holds its adapters, unless that one is too busy."""

    def initialize_state(self, **kwargs: Any) -> None:
        """Called by Serve with `request_router_kwargs`: `slots`, as for `Affinity`."""
        self._affinity = Affinity(kwargs["slots"])

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Called when replicas have started or ended."""
        super().update_replicas(replicas)
        self._affinity.keep_only([r.replica_id.unique_id for r in replicas])

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Ranks the replicas, one per rank, so that Serve tries the next if one is full."""
        by_id = {r.replica_id.unique_id: r for r in candidate_replicas}
        for name, replica in by_id.items():
            self._affinity.reported(name, replica.routing_stats.get("resident", ()))
        loads = {name: self._load(replica) for name, replica in by_id.items()}
        return [[by_id[name]] for name in self._affinity.order(loads, _adapters(pending_request))]

    def on_request_routed(
        self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any
    ) -> None:
        """Called when the replica has accepted the request."""
        self._affinity.assigned(replica_id.unique_id, _adapters(pending_request))

    def _load(self, replica: RunningReplica) -> int:
        known = self.replica_queue_len_cache.get(replica.replica_id)
        return replica.max_ongoing_requests if known is None else known


def _adapters(request: PendingRequest | None) -> list[str]:
    return [] if request is None else list(request.kwargs.get(ADAPTERS, ()))
