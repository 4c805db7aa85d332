"""A revoked token: open calls with it end, and new ones are rejected."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from inference_server.network import Network
from tests.support.calls import failure_of
from tests.support.fakes import DEADLINE, until
from tests.support.harness import InProcessServer, running_server
from wuliart.v1.adapter_pb2 import ListAdaptersRequest, WatchAdaptersRequest
from wuliart.v1.image_generation_pb2 import GenerateImageRequest

ANN, BOB = "ann-" + "a" * 28, "bob-" + "b" * 28


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"ann {ANN}\nbob {BOB}\n")
    path.chmod(0o600)
    return path


@pytest.fixture
async def server(tokens: Path) -> AsyncIterator[InProcessServer]:
    async with running_server(network=Network("127.0.0.1:0", tokens=tokens)) as running:
        yield running


class Holder:
    """A client with a token."""

    def __init__(self, server: InProcessServer, token: str) -> None:
        self._channel = server.channel(f"127.0.0.1:{server.public.port}")
        self._metadata = (("authorization", f"Bearer {token}"),)

    def call(self, method: str, request: Any, *, stream: bool = True) -> Any:
        begin = self._channel.unary_stream if stream else self._channel.unary_unary
        serialize = type(request).SerializeToString
        return begin(method, serialize, lambda data: data)(
            request, metadata=self._metadata, timeout=DEADLINE
        )

    def watch(self) -> Any:
        return self.call("/wuliart.v1.AdapterService/WatchAdapters", WatchAdaptersRequest())

    def generate(self) -> Any:
        request = GenerateImageRequest(prompt="a cat")
        return self.call("/wuliart.v1.ImageGenerationService/GenerateImage", request)

    def list(self) -> Any:
        request = ListAdaptersRequest()
        return self.call("/wuliart.v1.AdapterService/ListAdapters", request, stream=False)


CHANGES: dict[str, Callable[[Path], object]] = {
    "its line is gone": lambda path: path.write_text(f"ann {ANN}\n"),
    "the file is emptied": lambda path: path.write_text(""),
    "deleted": lambda path: path.unlink(),
    "misspelt elsewhere": lambda path: path.write_text(f"ann x\nbob {BOB}\n"),
    "another name": lambda path: path.write_text(f"eve {BOB}\n"),
    "0666": lambda path: path.chmod(0o666),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_open_streams_end_with_their_token(
    server: InProcessServer, tokens: Path, change: str
) -> None:
    server.engine.hold()
    bob = Holder(server, BOB)
    watching, drawing = bob.watch(), bob.generate()
    await watching.read()
    await server.accepted(1)
    CHANGES[change](tokens)
    began = time.monotonic()
    for call in (watching, drawing):
        failure = await failure_of(call)
        assert failure.code is grpc.StatusCode.UNAUTHENTICATED
        assert "revoked" in failure.message
    print(f"\nended after {time.monotonic() - began:.2f} s")
    if change != "another name":
        assert (await failure_of(bob.list())).reason == "UNAUTHENTICATED"
    await server.let_go(0)


async def test_streams_of_other_tokens_go_on(server: InProcessServer, tokens: Path) -> None:
    ann, bob = Holder(server, ANN).watch(), Holder(server, BOB).watch()
    for call in (ann, bob):
        await call.read()
    CHANGES["its line is gone"](tokens)
    await failure_of(bob)
    waiting = asyncio.ensure_future(ann.read())
    done, _ = await asyncio.wait([waiting], timeout=1.0)
    assert not done, "another client's stream has ended"
    assert await Holder(server, ANN).list() is not None
    waiting.cancel()


async def test_nothing_is_watched_once_calls_have_ended(server: InProcessServer) -> None:
    call = Holder(server, ANN).watch()
    await call.read()
    assert any("_watch" in repr(task) for task in asyncio.all_tasks())
    call.cancel()
    await until(lambda: not any("Revocation._watch" in repr(t) for t in asyncio.all_tasks()))
