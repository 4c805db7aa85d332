"""The stream of one image, and its end when the engine fails."""

from __future__ import annotations

import io
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image

import wuliart_client
from inference_server.errors import RequestError
from inference_server.scheduler import queue_positions as positions_module
from tests.support.calls import failure_of, kinds, read_until, rest_of
from tests.support.fakes import colour, until
from tests.support.harness import InProcessServer, running_server
from wuliart.v1.image_generation_pb2 import GenerateImageResponse
from wuliart_contract.status import Reason


@pytest.fixture
async def server() -> AsyncIterator[InProcessServer]:
    async with running_server() as running:
        yield running


async def events(server: InProcessServer, **fields: Any) -> list[GenerateImageResponse]:
    return await rest_of(server.generate(**fields))


def quality_95_tables() -> dict[int, list[int]]:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "JPEG", quality=95)
    return Image.open(buffer).quantization  # type: ignore[attr-defined, no-any-return]


async def test_the_stream_of_a_request_that_names_only_a_prompt(server: InProcessServer) -> None:
    received = await events(server, prompt="a lighthouse")
    assert [r.WhichOneof("event") for r in received] == ["started", *["step"] * 4, "completed"]
    started, *steps, completed = (getattr(r, str(r.WhichOneof("event"))) for r in received)

    assert started.steps == 4
    assert not started.adapters
    assert (started.prompt_tokens, started.prompt_tokens_ignored) == (12, 0)

    assert [(s.step, s.total_steps) for s in steps] == [(n, 4) for n in (1, 2, 3, 4)]
    assert not any(s.HasField("preview") for s in steps)
    elapsed = [s.elapsed.ToNanoseconds() for s in steps]
    assert elapsed == sorted(elapsed) and elapsed[0] >= 0

    assert started.seed == completed.seed == server.engine.images[0].seed
    assert (completed.media_type, completed.width, completed.height) == ("image/jpeg", 1024, 1024)
    timings = completed.timings
    stages = [
        timings.queued, timings.text_encode, timings.denoise, timings.decode, timings.jpeg_encode
    ]  # fmt: skip
    assert all(stage.ToNanoseconds() >= 0 for stage in stages)
    # Each is rounded to microseconds.
    assert sum(s.ToNanoseconds() for s in stages) <= timings.total.ToNanoseconds() + 5_000
    assert server.stages == ["encode", "begin", *["step"] * 4, "decode"]


async def test_the_image_is_a_1024_jpeg_of_quality_95(server: InProcessServer) -> None:
    received = await events(server, prompt="a lighthouse", seed=77, steps=1)
    image = Image.open(io.BytesIO(received[-1].completed.image))
    assert image.format == "JPEG"
    assert image.size == (1024, 1024)
    assert image.mode == "RGB"
    assert image.quantization == quality_95_tables()  # type: ignore[attr-defined]
    # The pixels are the engine's: a mix-up of channels or a lossy step in between would show.
    assert np.abs(np.asarray(image, int) - colour(77)).max() <= 2


@pytest.mark.parametrize("steps", [1, 2, 3])
async def test_steps(server: InProcessServer, steps: int) -> None:
    received = await events(server, prompt="a lighthouse", steps=steps)
    assert received[0].started.steps == steps
    done = [(r.step.step, r.step.total_steps) for r in received[1:-1]]
    assert done == [(n, steps) for n in range(1, steps + 1)]


async def test_previews_are_sent_on_request(server: InProcessServer) -> None:
    received = await events(server, prompt="a lighthouse", steps=2, preview=True)
    for response in received[1:-1]:
        preview = response.step.preview
        assert (preview.media_type, preview.width, preview.height) == ("image/jpeg", 48, 32)
        image = Image.open(io.BytesIO(preview.image))
        assert (image.format, image.size) == ("JPEG", (48, 32))


@pytest.mark.parametrize("seed", [0, 42, 2**64 - 1])
async def test_a_seed_that_is_given_is_used(server: InProcessServer, seed: int) -> None:
    received = await events(server, prompt="a lighthouse", seed=seed, steps=1)
    assert received[0].started.seed == seed
    assert received[-1].completed.seed == seed
    assert server.engine.images[0].seed == seed


async def test_random_seeds_differ(server: InProcessServer) -> None:
    for _ in range(3):
        await events(server, prompt="a lighthouse", steps=1)
    assert len({drawing.seed for drawing in server.engine.images}) == 3


async def test_steps_are_reported_as_they_end(server: InProcessServer) -> None:
    server.engine.hold()
    call = server.generate(steps=2)
    assert (await call.read()).WhichOneof("event") == "started"
    server.engine.let(1)
    assert (await call.read()).step.step == 1
    assert server.engine.images[0].done == 1
    server.engine.let(1)
    assert (await call.read()).step.step == 2
    assert (await kinds(call)) == ["completed"]


async def test_positions_count_down_to_the_start(
    server: InProcessServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(positions_module, "REPORT_SECONDS", 0)
    server.engine.hold()
    calls = []
    for n in range(4):
        calls.append(server.generate(f"image {n}", steps=1))
        await server.accepted(n + 1)
    await read_until(calls[0], "started")
    server.engine.free()
    for n, call in enumerate(calls):
        received = await rest_of(call)
        positions = [r.queued.position for r in received if r.WhichOneof("event") == "queued"]
        assert positions == list(range(n, 0, -1))
    assert server.prompts == [f"image {n}" for n in range(4)]


async def test_a_position_is_sent_again_only_when_it_changes(
    server: InProcessServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(positions_module, "REPORT_SECONDS", 0)
    server.engine.hold()
    calls = []
    for n in range(5):
        calls.append(server.generate(f"image {n}", steps=1))
        await server.accepted(n + 1)
    await read_until(calls[0], "started")
    calls[3].cancel()
    await server.let_go(3)
    server.engine.free()
    positions = {}
    for n in (1, 2, 4):
        received = await rest_of(calls[n])
        positions[n] = [r.queued.position for r in received if r.WhichOneof("event") == "queued"]
    assert positions == {1: [1], 2: [2, 1], 4: [4, 3, 2, 1]}


@pytest.mark.parametrize("step", [1, 3])
async def test_a_non_finite_value_names_its_step(server: InProcessServer, step: int) -> None:
    where = f"step {step} of 4"
    server.engine.hold()
    call = server.generate()
    server.engine.let(step - 1)
    await until(lambda: server.engine.entered("step") == step)
    server.engine.fail(
        "step",
        RequestError(
            Reason.NON_FINITE, f"a non-finite value in {where}", metadata={"stage": where}
        ),
    )
    server.engine.free()
    failure = await failure_of(call)
    assert failure.code is grpc.StatusCode.INTERNAL
    assert failure.reason == "NON_FINITE"
    assert where in failure.message
    assert failure.metadata == {"stage": where}
    assert server.engine.entered("step") == step
    assert "decode" not in server.stages
    assert (await kinds(server.generate(steps=1)))[-1] == "completed"


@pytest.mark.parametrize("stage", ["encode", "begin", "step", "preview", "decode"])
async def test_an_unexpected_exception_stays_in_the_log(
    server: InProcessServer, stage: str, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "/home/alice/weights.bin at 0x7f3a"
    server.engine.fail(stage, ValueError(secret))
    with caplog.at_level(logging.ERROR):
        failure = await failure_of(server.generate(preview=True))
    assert failure.code is grpc.StatusCode.INTERNAL
    assert failure.reason == "INTERNAL"
    assert "ValueError" not in failure.message and "0x7f3a" not in failure.message
    assert secret in caplog.text
    assert (await kinds(server.generate(steps=1)))[-1] == "completed"


async def test_an_unexpected_exception_in_a_unary_call(
    server: InProcessServer,
) -> None:
    # The harness has no model, so describing it fails: as unexpected as failures get.
    with pytest.raises(wuliart_client.GenerationFailed) as caught:
        async with wuliart_client.AsyncClient(server.target) as client:
            await client.info()
    assert caught.value.reason == "INTERNAL"
    assert "AttributeError" not in caught.value.message and "FakeEngine" not in caught.value.message


async def test_the_client_package_generates(server: InProcessServer) -> None:
    seen: list[wuliart_client.Event] = []
    async with wuliart_client.AsyncClient(server.target) as client:
        image = await client.generate_image(
            "a lighthouse", seed=5, preview=True, on_event=seen.append
        )
    assert [type(event).__name__ for event in seen] == ["Started", *["Step"] * 4, "Completed"]
    assert image.seed == 5
    assert Image.open(io.BytesIO(image.data)).size == (1024, 1024)


async def test_many_images_at_once_all_arrive(server: InProcessServer) -> None:
    calls = [server.generate(f"image {n}", seed=n, steps=1) for n in range(8)]
    for n, call in enumerate(calls):
        assert (await read_until(call, "completed")).completed.seed == n
    assert server.scheduler.queue_length == 0


async def test_an_image_carries_its_recipe_unless_omitted(server: InProcessServer) -> None:
    received = await events(server, prompt="一只狐狸, \n quickly", seed=2**64 - 1, steps=3)
    recipe = wuliart_client.read_recipe(received[-1].completed.image)
    assert (recipe.prompt, recipe.seed, recipe.steps) == ("一只狐狸, \n quickly", 2**64 - 1, 3)
    assert (recipe.adapters, recipe.model) == ((), "fake")

    received = await events(server, prompt="a fox", omit_recipe=True)
    with pytest.raises(wuliart_client.RecipeError, match="no recipe"):
        wuliart_client.read_recipe(received[-1].completed.image)
    assert b"Exif" not in received[-1].completed.image
