"""A fleet on this machine: Ray, the front, and replicas (embedded model or stub engine)."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import psutil
import ray
from grpc_health.v1 import health_pb2, health_pb2_grpc
from ray import serve

from inference_server import assembly
from inference_server.config import Config
from inference_server.engine.engine import Engine
from inference_server.ray_app.app import (
    FrontSettings,
    ReplicaSettings,
    build_front,
    build_replicas,
)
from inference_server.ray_app.names import FRONT, REPLICA, Name
from inference_server.ray_app.replica import Replica
from inference_server.ray_app.router import AffinityRouter
from scripts.processes import free_port
from scripts.stub_server import StubEngine

ROOT = Path(__file__).resolve().parents[1]
PATHS = (ROOT, ROOT / "protos", ROOT / "clients" / "python")

READY_SECONDS = 120.0
START_ATTEMPTS = 4

ENVIRONMENT = {
    # One event loop per process: nothing here blocks it, and four changes of thread would delay
    # each event by 1 ms.
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    # The same setting as wuliart-server.
    "OMP_WAIT_POLICY": "passive",
}
"""The cluster's environment, as docs/scale-out.md recommends. As the applications' `runtime_env` it
would delay a restarted replica by two seconds, because Ray keeps no such process ready."""


class StubReplica(Replica):
    """A replica whose engine takes `$STUB_SECONDS` per image and computes nothing."""

    def load(self, config: Config) -> Engine:
        """Loads the stub engine; see `Replica.load`."""
        vars(assembly)["Engine"] = StubEngine
        return assembly.load_engine(config, assembly.choose_model(config))

    async def last_end(self) -> float:
        """Returns the time of the last step's end, by the monotonic clock."""
        return StubEngine.last_end


def _run(application: serve.Application, name: Name, wait: bool) -> None:
    target = serve.RunTarget(target=application, name=name.application, route_prefix=None)
    serve.run_many([target], wait_for_applications_running=wait)


def start_ray(num_cpus: int) -> None:
    """Starts a local cluster and connects to it.

    Ray waits 30 s for its node to register, which cannot be set and is too short for a machine
    that is busy with other things. A cluster that was too slow is stopped and started again.

    Raises:
        Exception: the node did not register in `START_ATTEMPTS` attempts; Ray has no type for it.
    """
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            ray.init(
                num_cpus=num_cpus,
                include_dashboard=False,
                log_to_driver=bool(os.environ.get("WULIART_RAY_LOG")),
                logging_level=logging.WARNING,
                object_store_memory=100 << 20,
            )
            return
        except Exception as error:
            ray.shutdown()
            if attempt == START_ATTEMPTS or "timed out during startup" not in str(error):
                raise


class LocalFleet:
    """A fleet that runs, ready, for as long as the context lasts.

    Args:
        loras: folder of adapters.
        count: number of replicas.
        replica: class of the replicas.
        router: class of the router between them.
        environment: environment variables of every process.
        door: options of the front beside `--listen`.
        settings: other fields of `ReplicaSettings`.
    """

    def __init__(
        self,
        loras: Path,
        count: int,
        *,
        replica: type[Any] = Replica,
        router: type[Any] = AffinityRouter,
        environment: dict[str, str] | None = None,
        door: Sequence[str] = (),
        **settings: Any,
    ) -> None:
        self.loras = loras
        self.listen = f"127.0.0.1:{free_port()}"
        self.count = count
        self._door = door
        self._kinds = replica, router
        self._environment = environment or {}
        self.settings = ReplicaSettings(
            loras=str(loras),
            min_replicas=count,
            max_replicas=count,
            gpus=0,
            cpus=1,
            **settings,
        )

    def __enter__(self) -> Self:
        path = os.pathsep.join([*map(str, PATHS), os.environ.get("PYTHONPATH", "")])
        os.environ |= {"PYTHONPATH": path, **ENVIRONMENT, **self._environment}
        start_ray(num_cpus=self.count + 2)
        serve.start(proxy_location="Disabled", logging_config={"log_level": "WARNING"})
        listen = ["--listen", self.listen, *self._door]
        _run(build_front(FrontSettings(listen=listen)), FRONT, wait=True)
        self.deploy()
        self.wait_until_ready()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        serve.shutdown()  # type: ignore[no-untyped-call]
        ray.shutdown()

    def deploy(self, wait: bool = True, **changed: Any) -> None:
        """Deploys the replicas, with changed settings: an update if they run already."""
        self.settings = self.settings.model_copy(update=changed)
        _run(build_replicas(self.settings, *self._kinds), REPLICA, wait)

    def counts(self) -> dict[str, int]:
        """See `Front.counts`."""
        handle = serve.get_deployment_handle(*FRONT)
        found: dict[str, int] = handle.counts.remote().result()
        return found

    def last_end(self) -> float:
        """Returns the time of the only stub replica's last step, by the monotonic clock."""
        handle = serve.get_deployment_handle(*REPLICA)
        found: float = handle.last_end.remote().result()
        return found

    def wait_until_ready(self) -> None:
        """Waits until the front's health is SERVING and every replica has reported.

        Raises:
            TimeoutError: that did not happen within `READY_SECONDS`.
        """
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if len(self.pids()) >= self.count and self._serving():
                return
            time.sleep(0.1)
        raise TimeoutError(f"the fleet was not ready within {READY_SECONDS:.0f} s")

    def _serving(self) -> bool:
        with grpc.insecure_channel(self.listen, [("grpc.enable_http_proxy", 0)]) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            try:
                reply = stub.Check(health_pb2.HealthCheckRequest(), timeout=1.0)
            except grpc.RpcError:
                return False
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)

    def pids(self, name: Name = REPLICA) -> list[int]:
        """Returns the process ids of a deployment."""
        title = f"ray::ServeReplica:{name.application}:{name.deployment}"
        found = []
        for process in psutil.Process().children(recursive=True):
            try:
                if process.cmdline()[:1] and process.cmdline()[0].startswith(title):
                    found.append(process.pid)
            except psutil.Error:
                continue
        return sorted(found)


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m scripts.local_fleet LORAS REPLICAS [SLOTS]`: runs until a line comes on stdin."""
    loras, replicas, *slots = arguments or sys.argv[1:]
    fleet = LocalFleet(Path(loras), int(replicas), slots=int(slots[0]) if slots else 2)
    with fleet:
        print(fleet.listen, flush=True)
        sys.stdin.readline()


if __name__ == "__main__":
    main()
