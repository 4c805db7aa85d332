"""Starting, serving and draining: responses, health and reflection."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest
import torch
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

import wuliart_client
from inference_server.errors import ServerError
from inference_server.model.schedule import FAMILIES
from inference_server.model.schedule_choice import ChosenSchedule
from inference_server.model.weights.stored_form import Remark
from inference_server.network import Network
from inference_server.service.adapter_service import AdapterServicer
from inference_server.service.backend import BackendHolder
from inference_server.service.image_generation import BackendImageServicer
from inference_server.service.listeners import PublicListener
from tests.support.calls import failure_of, kinds, read_until
from tests.support.fakes import DEADLINE, planned_memory, until
from tests.support.hand_manager import HandManager, entry_of
from tests.support.harness import InProcessServer, running_server
from wuliart.internal.v1.segment_pb2 import AttachRequest
from wuliart.internal.v1.segment_pb2_grpc import SegmentServiceStub
from wuliart.v1.adapter_pb2 import ListAdaptersRequest, WatchAdaptersRequest
from wuliart.v1.image_generation_pb2 import (
    AdapterWeight,
    GenerateImageRequest,
    GetServerInfoRequest,
)

SERVICES = ("", "wuliart.v1.ImageGenerationService", "wuliart.v1.AdapterService")
SERVING = HealthCheckResponse.SERVING
NOT_SERVING = HealthCheckResponse.NOT_SERVING


async def health(server: InProcessServer) -> set[int]:
    stub: Any = HealthStub(server.channel())
    return {(await stub.Check(HealthCheckRequest(service=name))).status for name in SERVICES}


async def test_calls_fail_with_starting_while_the_model_loads() -> None:
    async with running_server(ready=False) as server:
        assert await health(server) == {NOT_SERVING}
        for call in (
            server.images().GenerateImage(GenerateImageRequest(prompt="a cat")),
            server.images().GetServerInfo(GetServerInfoRequest()),
            server.adapters().ListAdapters(ListAdaptersRequest()),
            server.adapters().WatchAdapters(WatchAdaptersRequest()),
        ):
            failure = await failure_of(call)
            assert failure.code is grpc.StatusCode.UNAVAILABLE
            assert failure.reason == "STARTING"
        await server.become_ready()
        assert await health(server) == {SERVING}
        assert (await kinds(server.generate()))[-1] == "completed"


async def test_the_client_package_waits_out_a_short_start() -> None:
    async with (
        running_server(ready=False) as server,
        wuliart_client.AsyncClient(server.target) as client,
    ):
        drawing = asyncio.create_task(client.generate_image("a cat", timeout=DEADLINE))
        # Its first try is answered with STARTING, the second comes 0.2 s after it at most.
        await asyncio.sleep(0.1)
        await server.become_ready()
        assert (await drawing).width == 1024


async def test_draining_completes_accepted_requests_and_rejects_others() -> None:
    async with running_server() as server:
        server.engine.hold()
        accepted = [server.generate("first"), server.generate("second")]
        await server.accepted(2)
        draining = asyncio.create_task(server.drain(DEADLINE))
        await until(lambda: server.scheduler._draining)
        assert await health(server) == {NOT_SERVING}
        failure = await failure_of(server.generate())
        assert failure.code is grpc.StatusCode.UNAVAILABLE
        assert failure.reason == "DRAINING"
        server.engine.free()
        for call in accepted:
            assert (await kinds(call))[-1] == "completed"
        await draining
        assert await health(server) == {NOT_SERVING}


async def test_draining_ends_requests_after_the_grace_period() -> None:
    async with running_server() as server:
        server.engine.hold()
        calls = []
        for n in range(3):
            calls.append(server.generate())
            await server.accepted(n + 1)
        await read_until(calls[0], "started")
        draining = asyncio.create_task(server.drain(0.05))
        for call in calls:
            failure = await failure_of(call)
            assert failure.code is grpc.StatusCode.UNAVAILABLE
            assert failure.reason == "DRAINING"
        server.engine.free()
        await draining
        assert server.stages == ["encode", "begin", "step"]


async def test_draining_ends_requests_that_wait_for_an_adapter() -> None:
    async with running_server() as server, HandManager(server) as manager:
        await manager.report(entry_of("ink"))
        call = server.generate(adapters=[AdapterWeight(name="ink")])
        assert await manager.next_promotion() == "ink"
        await server.drain(0.05)
        assert (await failure_of(call)).reason == "DRAINING"


async def test_health_can_be_watched() -> None:
    async with running_server(ready=False) as server:
        stub: Any = HealthStub(server.channel())
        watch = stub.Watch(HealthCheckRequest(service=""), timeout=DEADLINE)
        assert (await watch.read()).status == NOT_SERVING
        await server.become_ready()
        assert (await watch.read()).status == SERVING
        await server.drain(0)
        assert (await watch.read()).status == NOT_SERVING
        watch.cancel()


async def test_health_of_an_unknown_service() -> None:
    async with running_server() as server:
        stub: Any = HealthStub(server.channel())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Check(HealthCheckRequest(service="wuliart.internal.v1.SegmentService"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def reflect(server: InProcessServer, **question: Any) -> Any:
    stub = cast(Any, ServerReflectionStub(cast(Any, server.channel())))
    call: Any = stub.ServerReflectionInfo(timeout=DEADLINE)
    await call.write(ServerReflectionRequest(**question))
    answer = await call.read()
    call.cancel()
    return answer


async def test_reflection_lists_the_public_services() -> None:
    async with running_server() as server:
        answer = await reflect(server, list_services="")
        assert {service.name for service in answer.list_services_response.service} == {
            "wuliart.v1.ImageGenerationService",
            "wuliart.v1.AdapterService",
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
        }
        answer = await reflect(server, file_containing_symbol="wuliart.v1.ImageGenerationService")
        assert answer.file_descriptor_response.file_descriptor_proto


async def test_the_public_port_does_not_serve_the_manager() -> None:
    async with running_server() as server:
        stub: Any = SegmentServiceStub(server.channel())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            [_ async for _ in stub.Attach(AttachRequest())]
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert not server.store.manager_attached


async def test_the_managers_port_does_not_serve_images() -> None:
    async with running_server() as server:
        method: Any = server.channel(server.control_target).unary_stream(
            "/wuliart.v1.ImageGenerationService/GenerateImage"
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            [_ async for _ in method(b"")]
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_an_address_that_cannot_be_listened_on_is_one_clear_error() -> None:
    holder = BackendHolder()
    images, adapters = BackendImageServicer(holder), AdapterServicer(holder.adapters)
    with pytest.raises(ServerError, match="/nowhere/at/all"):
        PublicListener(
            Network("unix:/nowhere/at/all/public.sock"),
            images=images,
            adapters=adapters,
            on_reject=holder.count_error,
        )


async def test_server_info() -> None:
    async with running_server(capacity=5, resident_limit=3) as server:
        server.engine.model = SimpleNamespace(  # type: ignore[attr-defined]
            name="qwen-image",
            parameters=20_430_401_088,
            turbo_lora="turbo.safetensors",
            device=torch.device("cpu"),
            dtype=torch.float32,
            schedule=ChosenSchedule(FAMILIES["turbo-2"], "a test's", "a warning"),
            schedules=SimpleNamespace(sigmas={2: (1.0, 0.5, 0.0), 1: (1.0, 0.0)}),
            remarks=(Remark("24 as Q4_K"), Remark("a grid", warning=True)),
            **planned_memory(),
        )
        async with wuliart_client.AsyncClient(server.target) as client:
            info = await client.info()
            assert not info.lora_manager_connected
            async with HandManager(server) as manager:
                await manager.load("ink")
                attached = await client.info()
        message = await server.images().GetServerInfo(GetServerInfoRequest())
        assert attached.lora_manager_connected
        assert [list(s.sigmas) for s in message.model.schedules] == [[1, 0], [1, 0.5, 0]]
        assert (message.model.name, message.model.embedded) == ("qwen-image", False)
        assert message.model.transformer_parameters == 20_430_401_088
        assert message.model.turbo_lora == "turbo.safetensors"
        assert (message.model.schedule, message.model.schedule_reason) == ("turbo-2", "a test's")
        assert list(message.model.warnings) == ["a warning", "a grid"]
        assert list(message.model.notes) == ["24 as Q4_K"]
        assert info.model.notes == ("24 as Q4_K",)
        assert (message.device.kind, message.device.dtype) == ("cpu", "float32")
        limits = message.limits
        assert (limits.width, limits.height, limits.jpeg_quality) == (1024, 1024, 95)
        assert (limits.min_steps, limits.max_steps, limits.default_steps) == (1, 4, 4)
        assert (limits.max_prompt_characters, limits.max_prompt_tokens) == (2000, 512)
        assert (limits.max_adapters, limits.max_adapter_weight) == (3, 4.0)
        assert (limits.max_adapter_rank, limits.adapter_slots) == (8, 3)
        assert limits.queue_capacity == 5
        slots = {segment.name: segment for segment in message.segments}["adapter slots"]
        slot_bytes = server.store.segment.layout.slot_bytes
        assert (slots.size_bytes, slots.used_bytes) == (4 * slot_bytes, slot_bytes)
