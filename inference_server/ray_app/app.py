"""The two Serve applications, a front and its replicas; `serve.yaml` holds their settings.

They are two because Serve replaces a whole application at once: the replicas of a new model replace
the old ones behind a front that stays.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, RequestRouterConfig
from ray.serve.schema import LoggingConfig

from inference_server.ray_app.front import Front
from inference_server.ray_app.names import FRONT, MAX_ONGOING_REQUESTS, REPLICA
from inference_server.ray_app.replica import Replica
from inference_server.ray_app.router import AffinityRouter


class FrontSettings(BaseModel, extra="forbid"):
    """The `args` of the front."""

    listen: list[str] = Field(default_factory=lambda: ["--listen", "127.0.0.1:50051"])
    """Options of `wuliart-server` for the network (--listen, --tls-cert, --tokens ...), --metrics,
    --log-format, and --queue: the number of requests that may wait while every replica is full."""
    resources: dict[str, float] = Field(default_factory=dict)
    """Ray's custom resources that select the machine whose address clients know."""


class ReplicaSettings(BaseModel, extra="forbid"):
    """The `args` of the replicas."""

    server: list[str] = Field(default_factory=list)
    """Options of `wuliart-server` for the model and its memory."""
    loras: str = "loras"
    """The folder of adapters, under the same path on every machine of the fleet."""
    manager: list[str] = Field(default_factory=list)
    """Further options of `wuliart-lora-manager`."""
    slots: int = 2
    """Adapters in memory at each replica, for `wuliart-server --slots`."""
    min_replicas: int = 1
    max_replicas: int = 1
    upscale_delay_s: float = 10
    """Seconds of more than two requests per replica after which another replica starts."""
    downscale_delay_s: float = 300
    """Seconds of fewer requests after which a replica ends, once its requests are complete."""
    gpus: float = 1
    """GPUs of each replica; 0 on machines without."""
    cpus: float = 1
    revision: str = ""
    """Revision of the model's files: a new value replaces the replicas even if nothing else
    changes."""


def front(args: dict[str, Any]) -> Application:
    """Builds the front; Serve passes the `args` of its configuration (`FrontSettings`)."""
    return build_front(FrontSettings.model_validate(args))


def replicas(args: dict[str, Any]) -> Application:
    """Builds the replicas; Serve passes the `args` of its configuration (`ReplicaSettings`)."""
    return build_replicas(ReplicaSettings.model_validate(args))


def build_front(settings: FrontSettings) -> Application:
    """Builds the front."""
    deployment: Any = serve.deployment(
        name=FRONT.deployment,
        num_replicas=1,
        max_ongoing_requests=1000,
        health_check_period_s=1,
        # Each replica's report would be a line a second.
        logging_config=LoggingConfig(enable_access_log=False),
        ray_actor_options={"num_cpus": 0, "resources": settings.resources},
    )(Front)
    application: Application = deployment.bind(settings.listen)
    return application


def build_replicas(
    settings: ReplicaSettings, replica: type[Any] = Replica, router: type[Any] = AffinityRouter
) -> Application:
    """Builds the replicas.

    Args:
        settings: of the fleet.
        replica: class that runs on each GPU.
        router: class that chooses the replica of each image.
    """
    routing: dict[str, Any] = {
        "request_router_class": router,
        "request_router_kwargs": {"slots": settings.slots},
        "request_routing_stats_period_s": 1,
        # How long a replica that has become free may stay unnoticed by a waiting request.
        "max_backoff_s": 0.05,
    }
    deployment: Any = serve.deployment(
        name=REPLICA.deployment,
        max_ongoing_requests=MAX_ONGOING_REQUESTS,
        autoscaling_config=AutoscalingConfig(
            min_replicas=settings.min_replicas,
            initial_replicas=settings.min_replicas,
            max_replicas=settings.max_replicas,
            # One running and one ready to run; more than that is work for another GPU.
            target_ongoing_requests=2,
            upscale_delay_s=settings.upscale_delay_s,
            downscale_delay_s=settings.downscale_delay_s,
        ),
        request_router_config=RequestRouterConfig(**routing),
        health_check_period_s=1,
        health_check_timeout_s=10,
        graceful_shutdown_timeout_s=120,
        ray_actor_options={"num_gpus": settings.gpus, "num_cpus": settings.cpus},
    )(replica)
    arguments = ["--slots", str(settings.slots), *settings.server]
    application: Application = deployment.bind(arguments, settings.loras, settings.manager)
    return application
