"""The table "Bad input: what it gets", over the wire."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

import wuliart_client
from tests.support.calls import failure_of, kinds
from tests.support.fakes import until
from tests.support.hand_manager import HandManager, entry_of
from tests.support.harness import InProcessServer, running_server
from wuliart.v1.image_generation_pb2 import AdapterWeight, GenerateImageRequest

METHOD = "/wuliart.v1.ImageGenerationService/GenerateImage"


@pytest.fixture
async def server() -> AsyncIterator[InProcessServer]:
    async with running_server() as running:
        yield running


def adapters(*names: str, **fields: Any) -> list[AdapterWeight]:
    return [AdapterWeight(name=name, **fields) for name in names]


BAD: dict[str, tuple[dict[str, Any], set[str]]] = {
    "no prompt": ({"prompt": ""}, {"prompt"}),
    "too long": ({"prompt": "x" * 2001}, {"prompt"}),
    "far too long": ({"prompt": "x" * 60_000}, {"prompt"}),
    "too long in Chinese": ({"prompt": "字" * 2001}, {"prompt"}),
    "NUL": ({"prompt": "a cat\0"}, {"prompt"}),
    "escape sequence": ({"prompt": "\x1b[2Ja cat"}, {"prompt"}),
    "white space": ({"prompt": " \n\t\u3000"}, {"prompt"}),
    "zero width": ({"prompt": "\u200b\u200d\ufeff"}, {"prompt"}),
    "no steps": ({"steps": 0}, {"steps"}),
    "five steps": ({"steps": 5}, {"steps"}),
    "weight NaN": ({"adapters": adapters("a", weight=math.nan)}, {"adapters[0].weight"}),
    "weight inf": ({"adapters": adapters("a", weight=math.inf)}, {"adapters[0].weight"}),
    "weight 4.1": ({"adapters": adapters("a", weight=4.1)}, {"adapters[0].weight"}),
    "weight -4.1": ({"adapters": adapters("a", weight=-4.1)}, {"adapters[0].weight"}),
    "five adapters": ({"adapters": adapters(*"abcde")}, {"adapters"}),
    "twice the same": ({"adapters": adapters("a", "b", "a")}, {"adapters[2].name"}),
    "unnamed": ({"adapters": adapters("")}, {"adapters[0].name"}),
    "all at once": (
        {"prompt": "", "steps": 5, "adapters": adapters("a", "a", "b", "c", "d", weight=-math.inf)},
        {"prompt", "steps", "adapters", "adapters[1].name"}
        | {f"adapters[{n}].weight" for n in range(5)},
    ),
}


@pytest.mark.parametrize("name", BAD)
async def test_bad_fields(server: InProcessServer, name: str) -> None:
    fields, expected = BAD[name]
    failure = await failure_of(server.generate(**fields))
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failure.reason == "INVALID_REQUEST"
    assert failure.bad_requests == 1
    assert set(failure.violations) == expected
    assert server.stages == []


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a\x02\xff\xfe",
        b"\x0a\x05a cat\x22\x04\x0a\x02\xc3\x28",
        b"garbage, not a message",
        b"\x0a\xff\xff\xff\xff\x0f",
        b"\x0a",
    ],
    ids=["prompt not UTF-8", "adapter not UTF-8", "garbage", "length beyond the end", "cut off"],
)
async def test_malformed_bytes(server: InProcessServer, data: bytes) -> None:
    raw: Any = server.channel().unary_stream(METHOD)
    failure = await failure_of(raw(data))
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failure.reason == "INVALID_REQUEST"
    assert failure.bad_requests == 1
    assert len(failure.violations) == 1
    assert "Exception" not in failure.message and "Error" not in failure.message


async def test_malformed_bytes_to_a_unary_method(server: InProcessServer) -> None:
    raw: Any = server.channel().unary_unary("/wuliart.v1.AdapterService/ListAdapters")
    failure = await failure_of(raw(b"\x0a"))
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("count", [20, 200, 2000])
async def test_very_many_violations_still_arrive_as_a_bad_request(
    server: InProcessServer, count: int
) -> None:
    """A status is sent in the trailers, which clients limit to 8 KiB."""
    names = [f"adapter {n}" for n in range(count)]
    failure = await failure_of(server.generate(adapters=adapters(*names, weight=math.nan)))
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failure.bad_requests == 1
    assert "adapters" in failure.violations


async def test_long_names_still_arrive_as_a_bad_request(server: InProcessServer) -> None:
    failure = await failure_of(server.generate(adapters=adapters(*["🐈" * 200] * 5, weight=5)))
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "adapters[4].name" in failure.violations


async def test_a_long_unknown_name_is_still_not_found(server: InProcessServer) -> None:
    async with HandManager(server) as manager:
        await manager.report(entry_of("🐈" * 199 + "x"))
        images = server.images()
        request = GenerateImageRequest(prompt="a cat", adapters=adapters("🐈" * 200))
        # Between its soft limit of 8 KiB and its hard one of 16, gRPC rejects at random.
        for _ in range(100):
            failure = await failure_of(images.GenerateImage(request))
            assert failure.code is grpc.StatusCode.NOT_FOUND
            assert failure.metadata["nearest"] == "🐈" * 199 + "x"


@pytest.mark.parametrize(
    "prompt",
    ["字" * 2000, "x" * 2000, "山水画", "🐈", "👩‍🚀 on the moon", "one line\nanother"],
    ids=["2,000 Chinese", "2,000 Latin", "Chinese", "emoji", "joined emoji", "newline"],
)
async def test_good_prompts_reach_the_engine_as_they_are(
    server: InProcessServer, prompt: str
) -> None:
    assert (await kinds(server.generate(prompt)))[-1] == "completed"
    assert server.prompts == [prompt]


async def test_an_unknown_adapter_names_the_nearest(server: InProcessServer) -> None:
    async with HandManager(server) as manager:
        refused = entry_of("watercolour", refusal_reason="broken")
        await manager.report(entry_of("Watercolor"), entry_of("ink"), refused)
        failure = await failure_of(server.generate(adapters=adapters("watercolur")))
    assert failure.code is grpc.StatusCode.NOT_FOUND
    assert failure.reason == "ADAPTER_NOT_FOUND"
    assert failure.metadata == {"adapter": "watercolur", "nearest": "Watercolor"}
    assert "'watercolur'" in failure.message and "'Watercolor'" in failure.message


async def test_an_unknown_adapter_with_nothing_near(server: InProcessServer) -> None:
    async with HandManager(server) as manager:
        await manager.report()
        failure = await failure_of(server.generate(adapters=adapters("ink")))
    assert failure.code is grpc.StatusCode.NOT_FOUND
    assert failure.metadata == {"adapter": "ink"}


async def test_before_a_manager_has_reported_no_adapter_is_known_to_be_missing(
    server: InProcessServer,
) -> None:
    """A server that has just started may know the adapter in a moment."""
    failure = await failure_of(server.generate(adapters=adapters("ink")))
    assert failure.code is grpc.StatusCode.UNAVAILABLE
    assert failure.reason == "MANAGER_UNAVAILABLE"
    assert failure.metadata == {"adapter": "ink"}
    assert "wuliart-lora-manager" in failure.message


async def test_a_refused_adapter_gives_the_managers_reason(server: InProcessServer) -> None:
    reason = "to_q has shape [4, 7] where the model needs [4, 32]"
    async with HandManager(server) as manager:
        await manager.report(entry_of("broken", refusal_reason=reason))
        failure = await failure_of(server.generate(adapters=adapters("broken")))
    assert failure.code is grpc.StatusCode.FAILED_PRECONDITION
    assert failure.reason == "ADAPTER_REFUSED"
    assert reason in failure.message
    assert failure.metadata == {"adapter": "broken"}


async def test_a_long_reason_does_not_hide_the_refusal(server: InProcessServer) -> None:
    async with HandManager(server) as manager:
        await manager.report(entry_of("broken", refusal_reason="不" * 3000))
        failure = await failure_of(server.generate(adapters=adapters("broken")))
    assert failure.code is grpc.StatusCode.FAILED_PRECONDITION
    assert "不不不" in failure.message


async def test_an_adapter_without_a_manager_to_load_it(server: InProcessServer) -> None:
    async with HandManager(server) as manager:
        await manager.report(entry_of("ink"))
        manager.detach()
        await until(lambda: not server.store.manager_attached)
        failure = await failure_of(server.generate(adapters=adapters("ink")))
    assert failure.code is grpc.StatusCode.UNAVAILABLE
    assert failure.reason == "MANAGER_UNAVAILABLE"


async def test_the_client_package_raises_the_same(server: InProcessServer) -> None:
    async with (
        HandManager(server) as manager,
        wuliart_client.AsyncClient(server.target) as client,
    ):
        await manager.report(entry_of("ink"), entry_of("bad", refusal_reason="NaN in to_q"))
        with pytest.raises(wuliart_client.InvalidRequest) as invalid:
            await client.generate_image("", steps=7, adapters=[("ink", 9.0)])
        assert {field for field, _ in invalid.value.violations} == {
            "prompt", "steps", "adapters[0].weight",
        }  # fmt: skip
        with pytest.raises(wuliart_client.AdapterNotFound) as unknown:
            await client.generate_image("a cat", adapters=["imk"])
        assert unknown.value.nearest == "ink"
        with pytest.raises(wuliart_client.AdapterRefused, match="NaN in to_q"):
            await client.generate_image("a cat", adapters=["bad"])


async def test_a_request_above_the_message_bound_is_refused(server: InProcessServer) -> None:
    message: Message = GenerateImageRequest(prompt="x" * (1 << 20))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await kinds(server.images().GenerateImage(message))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert server.stages == []
