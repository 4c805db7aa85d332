"""Request ids, from the client to the log and back."""

from __future__ import annotations

import io
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from inference_server.logs import stamp
from tests.support.calls import failure_of, kinds
from tests.support.fakes import DEADLINE
from tests.support.harness import InProcessServer, running_server
from wuliart.v1.image_generation_pb2 import GenerateImageRequest
from wuliart_process.logs import TextFormatter

PROMPT = "a very private lighthouse"


@pytest.fixture
async def server() -> AsyncIterator[InProcessServer]:
    async with running_server() as running:
        yield running


@pytest.fixture
def output() -> Iterator[io.StringIO]:
    """Returns everything that is logged, as lines of text."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter())
    handler.addFilter(stamp)
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield stream
    root.removeHandler(handler)
    root.setLevel(level)


def calling(server: InProcessServer, *ids: str, prompt: str = PROMPT, **fields: Any) -> Any:
    return server.images().GenerateImage(
        GenerateImageRequest(prompt=prompt, **fields),
        timeout=DEADLINE,
        metadata=[("x-request-id", request_id) for request_id in ids],
    )


async def request_id_of(call: Any) -> str:
    """Returns the id in the initial metadata."""
    (value,) = [v for k, v in await call.initial_metadata() if k == "x-request-id"]
    return str(value)


def lines(output: io.StringIO, request_id: str) -> list[str]:
    marker = f" request_id={request_id}"
    return [x for x in output.getvalue().splitlines() if f"{x} ".find(f"{marker} ") >= 0]


@pytest.mark.parametrize("request_id", ["a", "A.b_c-9", "x" * 64])
async def test_a_clients_id_comes_back_and_is_in_the_log(
    server: InProcessServer, output: io.StringIO, request_id: str
) -> None:
    call = calling(server, request_id)
    assert await request_id_of(call) == request_id
    assert (await kinds(call))[-1] == "completed"
    assert server.scheduler.submitted[0].id == request_id
    (line,) = lines(output, request_id)
    assert "image completed" in line and "outcome=completed" in line
    assert PROMPT not in output.getvalue()


@pytest.mark.parametrize("ids", [(), ("",), ("two words",), ("x" * 65,), ("a=b",)])
async def test_an_unsafe_id_is_replaced(
    server: InProcessServer, output: io.StringIO, ids: tuple[str, ...]
) -> None:
    calls = [calling(server, *ids), calling(server, *ids)]
    received = [await request_id_of(call) for call in calls]
    for call in calls:
        await kinds(call)
    assert len(set(received)) == 2
    for value in received:
        assert len(value) == 16 and int(value, 16) >= 0
        assert len(lines(output, value)) == 1


async def test_a_failed_request_is_logged_under_its_id(
    server: InProcessServer, output: io.StringIO
) -> None:
    server.engine.fail("step", ValueError("broken"))
    call = calling(server, "mine")
    assert (await failure_of(call)).reason == "INTERNAL"
    found = lines(output, "mine")
    assert any("generating failed" in line for line in found)
    assert any("a handler failed" in line for line in found)
    assert any("image failed" in line and "reason=INTERNAL" in line for line in found)
    assert PROMPT not in output.getvalue()


async def test_a_rejected_request_is_logged_under_its_id(
    server: InProcessServer, output: io.StringIO
) -> None:
    await failure_of(calling(server, "mine", steps=9))
    (line,) = lines(output, "mine")
    assert "refused: INVALID_REQUEST" in line
    assert PROMPT not in output.getvalue()


async def test_a_cancelled_request_is_logged_under_its_id(
    server: InProcessServer, output: io.StringIO
) -> None:
    server.engine.hold()
    call = calling(server, "mine")
    assert await request_id_of(call) == "mine"
    call.cancel()
    await server.let_go(0)
    (line,) = lines(output, "mine")
    assert "outcome=cancelled" in line
    assert PROMPT not in output.getvalue()


async def test_a_call_that_fails_before_its_first_event_has_sent_nothing(
    server: InProcessServer,
) -> None:
    """A call is retried only if it has received nothing, initial metadata included."""
    await server.drain(0)
    call = calling(server, "mine")
    assert (await failure_of(call)).reason == "DRAINING"
    assert dict(await call.trailing_metadata())["x-request-id"]
    assert "x-request-id" not in dict(await call.initial_metadata())
