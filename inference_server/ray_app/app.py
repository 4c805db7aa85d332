"""Two Serve applications, a front and its replicas, with the options that make them a service.

Owns those options; `serve.yaml` gives the settings. Two, because Serve replaces all of an
application at once: replicas of a new model come and go behind a front that stays.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, RequestRouterConfig
from ray.serve.schema import LoggingConfig

from inference_server.ray_app.front import Front
from inference_server.ray_app.names import AT_ONCE, FRONT, REPLICA
from inference_server.ray_app.replica import Replica
from inference_server.ray_app.router import AffinityRouter


class FrontSettings(BaseModel, extra="forbid"):
    """`args` of the front."""

    listen: list[str] = Field(default_factory=lambda: ["--listen", "127.0.0.1:50051"])
    """Options of `wuliart-server`: who may call (--listen, --tls-cert, --tokens ...), --metrics,
    --log-format, and --queue: how many may wait here while every replica is full."""
    resources: dict[str, float] = Field(default_factory=dict)
    """Custom resources of the machine whose address clients know."""


class ReplicaSettings(BaseModel, extra="forbid"):
    """`args` of the replicas."""

    server: list[str] = Field(default_factory=list)
    """Options of `wuliart-server` about the model and its memory."""
    loras: str = "loras"
    """The folder of adapters, on every machine of the fleet under this path."""
    manager: list[str] = Field(default_factory=list)
    """More options of `wuliart-lora-manager`."""
    slots: int = 2
    """Adapters in memory at each replica; given to `wuliart-server --slots`."""
    min_replicas: int = 1
    max_replicas: int = 1
    upscale_delay_s: float = 10
    """More requests than two for each replica, for so long, start another."""
    downscale_delay_s: float = 300
    """Fewer, for so long, end one; it generates what it has first."""
    gpus: float = 1
    """Of each replica; 0 on machines without."""
    cpus: float = 1
    revision: str = ""
    """Of the model's files: another one replaces the replicas although nothing else has changed."""


def front(args: dict[str, Any]) -> Application:
    """The door; Serve calls it with the `args` of its configuration, those of `FrontSettings`."""
    return build_front(FrontSettings.model_validate(args))


def replicas(args: dict[str, Any]) -> Application:
    """Builds the replicas; Serve passes the `args` of its configuration (`ReplicaSettings`)."""
    return build_replicas(ReplicaSettings.model_validate(args))


def build_front(settings: FrontSettings) -> Application:
    """The door."""
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
    """All that generates.

    Args:
        settings: of the fleet.
        replica: what each GPU runs.
        router: chooses the replica of each image.
    """
    routing: dict[str, Any] = {
        "request_router_class": router,
        "request_router_kwargs": {"slots": settings.slots},
        "request_routing_stats_period_s": 1,
        # A replica that has just become free must not wait for who waits for it.
        "max_backoff_s": 0.05,
    }
    deployment: Any = serve.deployment(
        name=REPLICA.deployment,
        max_ongoing_requests=AT_ONCE,
        autoscaling_config=AutoscalingConfig(
            min_replicas=settings.min_replicas,
            initial_replicas=settings.min_replicas,
            max_replicas=settings.max_replicas,
            # Two: one is generated and one is at hand. More waiting is what another GPU is for.
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
