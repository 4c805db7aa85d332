"""The Serve application: a front and replicas, with the options that make them a service.

Owns those options. `serve.yaml` overrides any of them.
"""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel, Field
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, RequestRouterConfig

from inference_server import VERSION
from inference_server.ray_app.front import Front
from inference_server.ray_app.replica import FRONT, Replica
from inference_server.ray_app.router import AffinityRouter

AT_ONCE: Final = 6
"""Requests at a replica: one is drawn, one stands by, and the rest let a style's holder be asked
although others have less to do. All others wait in the front, where any replica can take them."""


class Settings(BaseModel):
    """`args` of the application."""

    listen: list[str] = Field(default_factory=lambda: ["--listen", "127.0.0.1:50051"])
    """Options of `wuliart-server` about who may call: --listen, --tls-cert, --tokens ..."""
    server: list[str] = Field(default_factory=list)
    """Options of `wuliart-server` about the model and its memory."""
    loras: str = "loras"
    """The folder of styles, on every machine of the fleet under this path."""
    manager: list[str] = Field(default_factory=list)
    """More options of `wuliart-lora-manager`."""
    slots: int = 2
    """Styles in memory at each replica; given to `wuliart-server --slots`."""
    min_replicas: int = 1
    max_replicas: int = 1
    gpus: float = 1
    """Of each replica; 0 on machines without."""
    cpus: float = 1
    front_resources: dict[str, float] = Field(default_factory=dict)
    """Custom resources of the machine whose address clients know."""
    queue: int = 64
    """Requests that may wait in the front."""
    version: str = VERSION
    """Replicas of another version are replaced, one after another."""


def build(
    settings: Settings, replica: type[Any] = Replica, router: type[Any] = AffinityRouter
) -> Application:
    """The application; Serve calls it with the `args` of its configuration.

    Args:
        settings: of the fleet.
        replica: what each GPU runs.
        router: chooses the replica of each picture.
    """
    arguments = ["--slots", str(settings.slots), *settings.server]
    routing: dict[str, Any] = {
        "request_router_class": router,
        "request_router_kwargs": {"slots": settings.slots},
        "request_routing_stats_period_s": 1,
        # A replica that has just become free must not wait for who waits for it.
        "max_backoff_s": 0.05,
    }
    replicas: Any = serve.deployment(
        name="Replica",
        version=settings.version,
        max_ongoing_requests=AT_ONCE,
        max_queued_requests=settings.queue,
        autoscaling_config=AutoscalingConfig(
            min_replicas=settings.min_replicas,
            initial_replicas=settings.min_replicas,
            max_replicas=settings.max_replicas,
            # Two: one is drawn and one is at hand. More waiting is what another GPU is for.
            target_ongoing_requests=2,
            upscale_delay_s=10,
            downscale_delay_s=300,
        ),
        request_router_config=RequestRouterConfig(**routing),
        health_check_period_s=1,
        health_check_timeout_s=10,
        graceful_shutdown_timeout_s=120,
        ray_actor_options={"num_gpus": settings.gpus, "num_cpus": settings.cpus},
    )(replica)
    front: Any = serve.deployment(
        name=FRONT,
        version=settings.version,
        num_replicas=1,
        max_ongoing_requests=1000,
        health_check_period_s=1,
        ray_actor_options={"num_cpus": 0, "resources": settings.front_resources},
    )(Front)
    application: Application = front.bind(
        replicas.bind(arguments, settings.loras, settings.manager), settings.listen
    )
    return application
