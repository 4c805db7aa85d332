"""The service on Ray Serve: two replicas with fake engines behind one front, with real clients."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from prometheus_client.parser import text_string_to_metric_families

from scripts.load import Load
from tests.support.ports import free_port
from tests.support.preview_images import color_of, image
from tests.support.ray_alone import ray_alone
from wuliart.v1.image_generation_pb2 import (
    AdapterWeight,
    GenerateImageRequest,
    GenerateImageResponse,
)
from wuliart.v1.image_generation_pb2_grpc import ImageGenerationServiceStub
from wuliart_client import AdapterNotFound, Client, Completed, InvalidRequest, Started
from wuliart_contract.status import Reason

MAX_ONGOING_REQUESTS = 6
local_fleet = pytest.importorskip("scripts.local_fleet", reason="needs the extra ray")

REPLICAS = 2
QUEUE = 4
ADAPTERS = ("ink", "neon", "pixel")
METRICS_PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
STORE = Path(__file__).parents[2] / "loras"
PATIENCE = 60.0

pytestmark = pytest.mark.timeout(600)


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {PATIENCE:.0f} s"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def metrics() -> int:
    """Port of the front's metrics."""
    return free_port()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, metrics: int) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("loras")
    for name in ADAPTERS:
        shutil.copy(STORE / f"{name}.safetensors", folder)
    running = local_fleet.LocalFleet(
        folder,
        REPLICAS,
        replica=local_fleet.StubReplica,
        environment={"STUB_SECONDS": "0.4"},
        slots=1,
        door=("--queue", str(QUEUE), "--metrics", f"127.0.0.1:{metrics}"),
    )
    with ray_alone(), running:
        yield running


@pytest.fixture
def client(fleet: Any) -> Iterator[Client]:
    with Client(fleet.listen) as client:
        yield client


@pytest.fixture
def images(fleet: Any) -> Iterator[Any]:
    """Without the client's retries."""
    options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(fleet.listen, options=options) as channel:
        yield ImageGenerationServiceStub(channel)


def request(*names: str) -> GenerateImageRequest:
    adapters = [AdapterWeight(name=name, weight=1) for name in names]
    return GenerateImageRequest(prompt="a boat", seed=1, steps=4, adapters=adapters)


def test_an_image_with_its_events_and_its_recipe(client: Client) -> None:
    events = list(client.generate("a boat", seed=7, adapters=["ink"], preview=True))
    assert [type(e).__name__ for e in events if type(e).__name__ != "Queued"] == [
        "Started", "Step", "Step", "Step", "Step", "Completed",
    ]  # fmt: skip
    started = next(e for e in events if isinstance(e, Started))
    assert (started.seed, started.adapters[0].name) == (7, "ink")
    last = events[-1]
    assert isinstance(last, Completed) and last.image.data[:2] == b"\xff\xd8"


def test_the_details_of_a_failed_call_are_kept(client: Client) -> None:
    with pytest.raises(InvalidRequest) as bad:
        client.generate_image("", steps=9)
    assert {field for field, _ in bad.value.violations} == {"prompt", "steps"}
    with pytest.raises(AdapterNotFound) as unknown:
        client.generate_image("a boat", adapters=["inc"])
    assert unknown.value.reason == Reason.ADAPTER_NOT_FOUND
    assert unknown.value.metadata == {"adapter": "inc", "nearest": "ink"}


def test_health_and_reflection(fleet: Any) -> None:
    with grpc.insecure_channel(fleet.listen) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        reply = stub.Check(health_pb2.HealthCheckRequest())
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
        services = ProtoReflectionDescriptorDatabase(channel).get_services()
    assert "wuliart.v1.ImageGenerationService" in services


def test_a_request_id_goes_through_and_comes_back(images: Any) -> None:
    call = images.GenerateImage(request(), metadata=(("x-request-id", "mine"),))
    next(call)
    assert dict(call.initial_metadata())["x-request-id"] == "mine"
    assert [e.WhichOneof("event") for e in call][-1] == "completed"


def test_more_adapters_than_one_replica_holds_are_all_used_and_listed_once(client: Client) -> None:
    names = [a.name for a in client.adapters()]
    assert names == sorted(ADAPTERS)
    for _ in range(2):
        for name in ADAPTERS:
            assert client.generate_image("a boat", adapters=[name]).adapters[0].name == name


def test_one_scrape_is_the_whole_fleet(metrics: int, client: Client) -> None:
    def scrape() -> dict[str, dict[tuple[str, str], float]]:
        """Returns samples by name, then by replica and the value of the other label."""
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        found: dict[str, dict[tuple[str, str], float]] = defaultdict(dict)
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = dict(sample.labels)
                replica = labels.pop("replica")
                found[sample.name][replica, ",".join(labels.values())] = sample.value
        return found

    time.sleep(1.5)  # replicas report every second, so earlier tests are included
    before = scrape()
    client.generate_image("a boat")
    with pytest.raises(InvalidRequest):
        client.generate_image("")
    with pytest.raises(AdapterNotFound):
        client.generate_image("a boat", adapters=["inc"])

    def more(name: str, label: str = "") -> dict[str, float]:
        """Returns the counts by replica, with "front" for the front's own."""
        now = scrape()[name]
        grown = {key: value - before[name].get(key, 0) for key, value in now.items()}
        return {
            "front" if replica == "front" else "replica": count
            for (replica, value), count in grown.items()
            if count and value == label
        }

    until(lambda: more("wuliart_images_completed_total") == {"replica": 1}, "an image")
    until(lambda: more("wuliart_errors_total", "ADAPTER_NOT_FOUND") == {"replica": 1}, "a refusal")
    assert more("wuliart_errors_total", "INVALID_REQUEST") == {"front": 1}
    assert more("wuliart_fleet_requests_total") == {"front": 2}

    after = scrape()
    replicas = {replica for replica, _ in after["wuliart_images_completed_total"]}
    assert len(replicas) == REPLICAS and "front" not in replicas
    assert after["wuliart_fleet_replicas"]["front", ""] == REPLICAS
    assert after["wuliart_queue_capacity"]["front", ""] == QUEUE
    listed = set(re.findall(r"^\| `(wuliart_\w+)`", METRICS_PAGE.read_text(), re.MULTILINE))
    assert {name for name in after if not re.search(r"_(bucket|sum|count)$", name)} <= listed
    assert {name for name in listed if "fleet" in name} <= after.keys()


def test_new_and_removed_files_apply_to_the_whole_fleet(fleet: Any, client: Client) -> None:
    with client.watch(timeout=PATIENCE) as changes:
        next(changes)
        aside = fleet.loras.parent / "aside"
        shutil.copy(STORE / "ink.safetensors", aside)
        aside.rename(fleet.loras / "new.safetensors")
        assert any(a.name == "new" for change in changes for a in change.adapters)
        # A listed adapter can be used by any replica: both are tried.
        calls = [client.generate("a boat", adapters=["new"]) for _ in range(4)]
        assert all(isinstance(list(call)[-1], Completed) for call in calls)
    (fleet.loras / "new.safetensors").unlink()
    until(lambda: "new" not in [a.name for a in client.adapters()], "the adapter gone")
    with pytest.raises(AdapterNotFound):
        client.generate_image("a boat", adapters=["new"])


def test_the_front_has_the_thumbnails_of_its_replicas(fleet: Any, client: Client) -> None:
    beside = fleet.loras / "ink.png"
    beside.write_bytes(image(color=(200, 30, 30)))
    until(lambda: client.adapters()[0].thumbnail_hash, "a thumbnail")
    jpeg = client.thumbnail("ink")
    assert jpeg is not None and color_of(jpeg) == (200, 30, 30)
    beside.unlink()
    until(lambda: client.thumbnail("ink") is None, "no thumbnail")


def test_requests_go_where_their_adapter_is(fleet: Any, client: Client) -> None:
    for name in ("ink", "neon"):
        client.generate_image("a boat", adapters=[name])
    before = fleet.counts()
    for _ in range(3):
        for name in ("ink", "neon"):
            client.generate_image("a boat", adapters=[name])
    after = fleet.counts()
    assert after["requests"] - before["requests"] == 6
    assert after["resident"] - before["resident"] == 6


def test_a_client_that_leaves_frees_the_replica(images: Any) -> None:
    for _ in range(3):
        call = images.GenerateImage(request())
        while next(call).WhichOneof("event") != "step":
            pass
        call.cancel()
    began = time.monotonic()
    assert [e.WhichOneof("event") for e in images.GenerateImage(request())][-1] == "completed"
    # A fourth behind three whole images on two replicas would take twice as long at least.
    assert time.monotonic() - began < 30


def test_a_full_fleet_returns_retry_info(fleet: Any, images: Any) -> None:
    room = REPLICAS * MAX_ONGOING_REQUESTS + QUEUE
    calls = [images.GenerateImage(request()) for _ in range(room + 6)]
    endings = []
    for call in calls:
        try:
            endings.append([e.WhichOneof("event") for e in call][-1])
        except grpc.RpcError as error:
            endings.append(error.code().name)
    assert set(endings) == {"completed", "RESOURCE_EXHAUSTED"}
    assert endings.count("completed") == room


def test_the_images_of_a_killed_replica_are_generated_by_another(fleet: Any, images: Any) -> None:
    calls = [images.GenerateImage(request()) for _ in range(4)]
    received: list[list[GenerateImageResponse]] = [[] for _ in calls]
    while not (received[0] and received[0][-1].HasField("step")):
        received[0].append(next(calls[0]))
    before, again = fleet.pids(), fleet.counts()["retries"]
    for pid in before[:-1]:
        os.kill(pid, signal.SIGKILL)
    for call, events in zip(calls, received, strict=True):
        events.extend(call)
        assert [kind for e in events if (kind := e.WhichOneof("event")) != "queued"] == [
            "started", "step", "step", "step", "step", "completed",
        ]  # fmt: skip
        assert [e.step.step for e in events if e.HasField("step")] == [1, 2, 3, 4]
    assert fleet.counts()["retries"] > again
    until(lambda: len(fleet.pids()) == REPLICAS and before[0] not in fleet.pids(), "it is back")
    with Client(fleet.listen) as client:
        for name in ADAPTERS:
            client.generate_image("a boat", adapters=[name], timeout=PATIENCE)


def test_an_update_fails_no_request_nor_does_a_replica_that_comes_or_leaves(
    fleet: Any, client: Client
) -> None:
    fleet.wait_until_ready()
    before, drawn = set(fleet.pids()), 0
    fleet.deploy(wait=False, max_replicas=REPLICAS + 1, upscale_delay_s=0, downscale_delay_s=2)
    deadline = time.monotonic() + PATIENCE
    while before & set(fleet.pids()) or len(fleet.pids()) < REPLICAS:
        assert time.monotonic() < deadline, "the replicas were never replaced"
        client.generate_image("a boat", adapters=["ink"], timeout=PATIENCE)
        drawn += 1
    assert drawn > 0

    until(lambda: fleet.counts()["replicas"] == REPLICAS, "the old ones are forgotten")
    # As many as one replica and the queue have room for: the front may not know all of them yet.
    with Load(fleet.listen, clients=8, adapters=ADAPTERS) as many:
        until(lambda: fleet.counts()["replicas"] == REPLICAS + 1, "a replica more for many clients")
    with Load(fleet.listen, clients=1, adapters=ADAPTERS) as one:
        until(lambda: len(fleet.pids()) == REPLICAS, "a replica less for one")
    assert many.endings.keys() == one.endings.keys() == {"completed"}
