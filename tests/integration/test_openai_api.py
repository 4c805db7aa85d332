"""The OpenAI-compatible API, called by the unmodified `openai` package over real HTTP and gRPC."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI
from PIL import Image

from tests.support.fake_image_server import Fail, FakeImageServer
from tests.support.fakes import DEADLINE, colour, until
from tests.support.hand_manager import HandManager, entry_of
from tests.support.harness import InProcessServer, running_server
from tests.support.web_app import name_model, open_openai
from wuliart_client import read_recipe
from wuliart_contract.status import Reason
from wuliart_web.openai.stream import partial_steps


@pytest.fixture
async def server() -> AsyncIterator[InProcessServer]:
    async with running_server(capacity=2) as running:
        name_model(running, "qwen-image")
        yield running


@pytest.fixture
async def api(server: InProcessServer) -> AsyncIterator[AsyncOpenAI]:
    async with open_openai(server.target) as client:
        yield client
        server.engine.free()


@pytest.fixture
async def manager(server: InProcessServer) -> AsyncIterator[HandManager]:
    async with HandManager(server) as attached:
        yield attached


def opened(b64: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(b64, validate=True)))


def assert_generated_from(b64: str, seed: int) -> None:
    image = opened(b64)
    assert (image.format, image.size) == ("JPEG", (1024, 1024))
    pixel: Any = image.getpixel((500, 500))
    assert all(abs(a - b) < 6 for a, b in zip(pixel, colour(seed), strict=True))


async def generate(api: AsyncOpenAI, prompt: str = "a lighthouse", **fields: Any) -> Any:
    return await api.images.generate(prompt=prompt, **fields)


async def error_of(
    api: AsyncOpenAI, kind: type[Any] = openai.BadRequestError, **fields: Any
) -> Any:
    with pytest.raises(kind) as caught:
        await generate(api, **fields)
    assert type(caught.value) is kind
    assert set(caught.value.body) == {"message", "type", "param", "code"}
    return caught.value


# -- images ------------------------------------------------------------------------------------


async def test_one_image(server: InProcessServer, api: AsyncOpenAI) -> None:
    answer = await generate(api, "灯塔", extra_body={"seed": 7, "steps": 2})
    (image,) = answer.data
    assert_generated_from(image.b64_json, 7)
    assert image.seed == 7 and image.url is None
    recipe = read_recipe(base64.b64decode(image.b64_json))
    assert (recipe.prompt, recipe.seed, recipe.steps) == ("灯塔", 7, 2)
    assert (answer.size, answer.output_format, answer.background) == ("1024x1024", "jpeg", "opaque")
    assert answer.quality == "high" and answer.created > 1_700_000_000
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (2, 0)
    assert answer.usage.input_tokens_details.text_tokens == answer.usage.total_tokens == 2
    assert "preview" not in server.stages


async def test_a_seed_reproduces_the_same_bytes(api: AsyncOpenAI) -> None:
    first = (await generate(api)).data[0]
    again = (await generate(api, extra_body={"seed": first.seed})).data[0]
    assert again.b64_json == first.b64_json


async def test_several_images_count_their_seeds_on(
    server: InProcessServer, api: AsyncOpenAI
) -> None:
    last = 2**64 - 1
    answer = await generate(api, n=3, extra_body={"seed": last, "steps": 1})
    assert [image.seed for image in answer.data] == [last, 0, 1]
    for image in answer.data:
        assert_generated_from(image.b64_json, image.seed)
    picked = [image.seed for image in (await generate(api, n=2)).data]
    assert picked[1] == picked[0] + 1
    assert answer.usage.input_tokens == len("a lighthouse")


async def test_more_images_than_the_queue_holds(api: AsyncOpenAI) -> None:
    answer = await generate(api, n=10, extra_body={"steps": 1})
    assert len({image.b64_json for image in answer.data}) == 10


async def test_one_failed_image_fails_the_request_and_ends_it(
    server: InProcessServer, api: AsyncOpenAI
) -> None:
    server.engine.fail("decode", RuntimeError("boom"))
    error = await error_of(api, openai.InternalServerError, n=3)
    assert (error.status_code, error.type, error.code) == (500, "server_error", "generation_failed")
    assert len(server.scheduler.submitted) == 1


async def test_fixed_properties_are_accepted_as_parameters(api: AsyncOpenAI) -> None:
    for model in ("wuliart-turbo", "qwen-image"):
        answer = await generate(
            api, model=model, size="auto", quality="standard", background="auto", n=1,
            output_format="jpeg", output_compression=95, response_format="b64_json",
            moderation="low", user="u", extra_body={"steps": 1, "style": None},
        )  # fmt: skip
        assert len(answer.data) == 1


# -- adapters and models ---------------------------------------------------------------------------


async def test_adapters_by_model_and_by_list(
    server: InProcessServer, api: AsyncOpenAI, manager: HandManager
) -> None:
    for name in ("ink", "sub/aurora"):
        await manager.load(name)
    both = [{"name": "ink", "weight": -0.5}, {"name": "sub/aurora"}]
    await generate(api, model="sub/aurora", extra_body={"adapters": both[:1]})
    await generate(api, extra_body={"adapters": both})
    used = [[adapter.gate for adapter in d.adapters] for d in server.engine.images]
    assert used == [[1.0, -0.5], [-0.5, 1.0]]
    # The adapter given as the model is the first that the server counts, so `adapters` begins at 0.
    error = await error_of(
        api, model="ink", extra_body={"adapters": [{"name": "sub/aurora", "weight": 5}]}
    )
    assert error.param == "adapters[0].weight"
    assert "adapters[0].weight is 5; it must be -4 to 4" in error.message
    error = await error_of(api, model="ink", extra_body={"adapters": [{"name": "ink"}]})
    assert error.param == "adapters[0].name"


async def test_adapters_that_cannot_be_used(api: AsyncOpenAI, manager: HandManager) -> None:
    await manager.load("ink")
    await manager.report(
        entry_of("ink", manager.content()), entry_of("bad", refusal_reason="it holds NaN")
    )
    error = await error_of(api, extra_body={"adapters": [{"name": "inc"}]})
    assert (error.param, error.code) == ("adapters", "adapter_not_found")
    assert "did you mean 'ink'" in error.message
    for fields, param in (
        ({"model": "bad"}, "model"),
        ({"extra_body": {"adapters": [{"name": "bad"}]}}, "adapters"),
    ):
        error = await error_of(api, **fields)
        assert (error.param, error.code) == (param, "adapter_refused")
        assert "it holds NaN" in error.message
    assert [model.id async for model in api.models.list()] == ["qwen-image", "ink"]


async def test_models(api: AsyncOpenAI, manager: HandManager) -> None:
    await manager.load("sub/ink")
    listed = (await api.models.list()).data
    assert [model.id for model in listed] == ["qwen-image", "sub/ink"]
    assert {(model.object, model.owned_by) for model in listed} == {("model", "wuliart")}
    assert all(isinstance(model.created, int) for model in listed)
    for name in ("qwen-image", "sub/ink", "wuliart-turbo"):
        assert (await api.models.retrieve(name)).id == name
    with pytest.raises(openai.NotFoundError) as caught:
        await api.models.retrieve("gpt-4o")
    assert caught.value.code == "model_not_found"


# -- streams -------------------------------------------------------------------------------------


def test_partial_images_are_spread_and_end_late() -> None:
    assert [partial_steps(4, n) for n in range(4)] == [
        (),
        (3,),
        (2, 3),
        (1, 2, 3),
    ]
    assert [partial_steps(steps, 3) for steps in (1, 2, 3)] == [(), (1,), (1, 2)]


@pytest.mark.parametrize("partial_images", [0, 1, 3])
async def test_a_stream(server: InProcessServer, api: AsyncOpenAI, partial_images: int) -> None:
    stream = await generate(api, stream=True, partial_images=partial_images, extra_body={"seed": 7})
    *partials, last = [event async for event in stream]
    assert [event.partial_image_index for event in partials] == list(range(partial_images))
    for event in partials:
        assert event.type == "image_generation.partial_image"
        preview = opened(event.b64_json)
        assert (preview.format, preview.size) == ("JPEG", (48, 32))
    for event in (*partials, last):
        assert (event.size, event.output_format, event.background, event.quality) == (
            "1024x1024", "jpeg", "opaque", "high",
        )  # fmt: skip
        assert event.created_at > 1_700_000_000
    assert last.type == "image_generation.completed" and last.seed == 7
    assert_generated_from(last.b64_json, 7)
    assert last.usage.total_tokens == last.usage.input_tokens == len("a lighthouse")
    assert server.stages.count("preview") == (4 if partial_images else 0)


async def test_a_partial_image_comes_before_the_next_step_ends(
    server: InProcessServer, api: AsyncOpenAI
) -> None:
    server.engine.hold()
    stream = await generate(api, stream=True, partial_images=3)
    for step in (1, 2, 3):
        server.engine.let()
        event = await anext(stream)
        assert event.partial_image_index == step - 1
        assert server.engine.images[0].done == step
    server.engine.free()
    assert (await anext(stream)).type == "image_generation.completed"
    assert [event async for event in stream] == []


async def test_an_error_in_a_stream_is_raised_by_the_client(
    server: InProcessServer, api: AsyncOpenAI
) -> None:
    server.engine.fail("decode", RuntimeError("boom"))
    stream = await generate(api, stream=True, partial_images=1)
    assert (await anext(stream)).type == "image_generation.partial_image"
    with pytest.raises(openai.APIError) as caught:
        await anext(stream)
    assert (caught.value.type, caught.value.code) == ("server_error", "generation_failed")
    assert "its log has the details" in caught.value.message


# -- leaving -------------------------------------------------------------------------------------


async def let_go_while_held(server: InProcessServer) -> None:
    # The engine gives up a stage that is held for DEADLINE, and that ends the request too.
    async with asyncio.timeout(DEADLINE / 2):
        await server.let_go(0)


@pytest.mark.parametrize("partial_images", [0, 1])
async def test_closing_a_stream_cancels_within_the_step(
    server: InProcessServer, api: AsyncOpenAI, partial_images: int
) -> None:
    server.engine.hold()
    stream = await generate(api, stream=True, partial_images=partial_images)
    await until(lambda: server.engine.entered("step") == 1)
    await stream.close()
    await let_go_while_held(server)
    server.engine.free()
    await generate(api, extra_body={"steps": 1})
    assert server.engine.entered("step") == 2 and server.engine.entered("decode") == 1


@pytest.mark.parametrize(
    ("stage", "fields"),
    [
        ("step", {}),
        ("step", {"n": 3}),
        ("decode", {}),
        ("encode", {}),
        ("encode", {"stream": True}),
    ],
)
async def test_a_disconnect_before_the_response_cancels(
    server: InProcessServer, api: AsyncOpenAI, stage: str, fields: dict[str, Any]
) -> None:
    server.engine.hold(stage)
    asking = asyncio.create_task(generate(api, **fields))
    await until(lambda: server.engine.entered(stage) == 1)
    asking.cancel()
    await let_go_while_held(server)
    server.engine.free()
    await generate(api, "another", extra_body={"steps": 1})
    # The one stage that was held ran to its end; nothing began after it.
    ends = {"encode": 0, "step": 1, "decode": 4}[stage]
    assert server.engine.entered("step") == ends + 1
    assert server.engine.entered("decode") == 1 + (stage == "decode")
    assert len(server.scheduler.submitted) == 2


# -- errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("n", 0, "greater than or equal to 1"),
        ("n", 11, "less than or equal to 10"),
        ("n", True, "valid integer"),
        ("size", "512x512", "every image is 1024x1024. You gave '512x512'"),
        ("output_format", "png", "every image is a JPEG"),
        ("output_compression", 80, "quality 95"),
        ("output_compression", 95.0, "quality 95"),
        ("response_format", "url", "no URL"),
        ("quality", "low", "steps"),
        ("background", "transparent", "no transparency"),
        ("style", "vivid", "use 'adapters'"),
        ("moderation", "strict", "nothing is filtered"),
        ("partial_images", 4, "less than or equal to 3"),
        ("partial_images", 2, "only sent in a stream"),
        ("seed", -1, "greater than or equal to 0"),
        ("seed", 2**64, "less than 18446744073709551616"),
        ("seed", "7", "valid integer"),
        ("steps", 5, "steps is 5; it must be 1 to 4"),
        ("steps", -1, "cannot be sent"),
        ("adapters", "ink", "valid list"),
        ("prompt", " ", "say what the image shows"),
        ("prompt", "x" * 2001, "2000 are allowed"),
    ],
)
async def test_invalid_requests(
    server: InProcessServer, api: AsyncOpenAI, field: str, value: Any, says: str
) -> None:
    error = await error_of(api, extra_body={field: value})
    assert (error.param, error.code, error.type) == (
        field, "invalid_value", "invalid_request_error",
    )  # fmt: skip
    assert says in error.message and len(error.message) < 400
    assert not server.scheduler.submitted


async def test_unknown_and_missing_fields(api: AsyncOpenAI) -> None:
    error = await error_of(api, extra_body={"sede": 7})
    assert (error.param, error.code) == ("sede", "unknown_parameter")
    error = await error_of(api, extra_body={"adapters": [{"name": "ink", "wieght": 1}]})
    assert (error.param, error.code) == ("adapters[0].wieght", "unknown_parameter")
    with pytest.raises(openai.BadRequestError) as caught:
        await api.post("/images/generations", body={"n": 1}, cast_to=object)
    assert (caught.value.param, caught.value.code) == ("prompt", "missing_required_parameter")
    error = await error_of(api, stream=True, n=2)
    assert error.param == "n" and "a stream generates one image" in error.message


async def test_an_unknown_model(
    server: InProcessServer, api: AsyncOpenAI, manager: HandManager
) -> None:
    await manager.report()
    for model in ("dall-e-3", "gpt-image-1"):
        error = await error_of(api, openai.NotFoundError, model=model)
        assert (error.param, error.code) == ("model", "model_not_found")
        assert model in error.message and "/v1/models" in error.message
    assert not server.scheduler.submitted


@pytest.mark.parametrize("stream", [False, True])
async def test_a_full_queue(server: InProcessServer, api: AsyncOpenAI, stream: bool) -> None:
    server.engine.hold()
    waiting = []
    for n in range(3):
        waiting.append(asyncio.create_task(generate(api)))
        await server.accepted(n + 1)
        await until(lambda: server.engine.entered("step") == 1)
    error = await error_of(api, openai.RateLimitError, stream=stream)
    assert (error.code, error.type) == ("rate_limit_exceeded", "rate_limit_error")
    assert int(error.response.headers["retry-after"]) >= 1
    server.engine.free()
    await asyncio.gather(*waiting)


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (Fail(Reason.NO_FREE_SLOT, "all in use", retry_after=1.2), 429, "rate_limit_exceeded"),
        (Fail(Reason.STARTING, "starting"), 503, "service_unavailable"),
        (Fail(Reason.NON_FINITE, "after step 2"), 500, "generation_failed"),
        (Fail(Reason.SESSION_LOST, "gone"), 500, "generation_failed"),
    ],
    ids=lambda value: value.reason if isinstance(value, Fail) else "",
)
async def test_errors_of_the_server(failure: Fail, status: int, code: str) -> None:
    with FakeImageServer() as fake:
        fake.default = [failure]
        async with open_openai(fake.target) as api:
            with pytest.raises(openai.APIStatusError) as caught:
                await generate(api)
    error = caught.value
    assert (error.status_code, error.code) == (status, code)
    assert failure.message in error.message
    assert error.response.headers.get("retry-after") == ("2" if status == 429 else None)


async def test_bodies_that_are_not_json_and_unknown_routes(api: AsyncOpenAI) -> None:
    json_type = {"content-type": "application/json"}
    async with httpx.AsyncClient(base_url=str(api.base_url)) as http:

        async def post(content: bytes, headers: dict[str, str]) -> Any:
            return await http.post("images/generations", content=content, headers=headers)

        cases = [
            (await post(b"{", json_type), 400, "invalid_json"),
            (await post(b"[]", json_type), 400, "invalid_json"),
            (await post(b"\xff", json_type), 400, "invalid_json"),
            (await post(b"[" * 50_000, json_type), 400, "invalid_json"),
            (await post(b'{"prompt":"\\ud800"}', json_type), 400, "invalid_value"),
            (await post(b'{"prompt":"p","\\ud800":1}', json_type), 400, "invalid_value"),
            (await post(b'{"prompt":"p"}', {"content-type": "text/plain"}), 400,
             "unsupported_content_type"),
            (await post(b" " * (1 << 21), json_type), 413, "body_too_large"),
            (await http.get("images/generations"), 404, "unknown_url"),
            (await http.post("chat/completions", json={}), 404, "unknown_url"),
        ]  # fmt: skip
    for answer, status, code in cases:
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
