"""A fake of the two public services on a temporary Unix socket, for the client's tests.

Each GenerateImage and WatchAdapters call plays one script: responses, and `Fail`, `Hold` or
`Drop` among them. Sends the status details of a real server; generates nothing.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from wuliart.v1 import (
    adapter_pb2,
    adapter_pb2_grpc,
    image_generation_pb2,
    image_generation_pb2_grpc,
)
from wuliart_contract.status import CODES, DOMAIN, Reason

DEADLINE = 30.0
"""Seconds after which whatever waits here gives up, so that no test hangs."""

JPEG = b"\xff\xd8 an image \xff\xd9"
HASH = "ab" * 32


@dataclass(frozen=True)
class Fail:
    """End the call with a reason and its details, or with a bare `code` as gRPC itself would."""

    reason: Reason | str | None
    message: str = "it failed"
    metadata: dict[str, str] = field(default_factory=dict)
    violations: tuple[tuple[str, str], ...] = ()
    retry_after: float | None = None
    code: grpc.StatusCode | None = None
    domain: str = DOMAIN

    def raise_on(self, context: grpc.ServicerContext) -> None:
        code = self.code or CODES[Reason(self.reason)]
        if self.reason is None:
            context.abort(code, self.message)
        status = status_pb2.Status(code=code.value[0], message=self.message)

        def attach(detail: Any) -> None:
            packed = AnyMessage()
            packed.Pack(detail)
            status.details.append(packed)

        attach(
            error_details_pb2.ErrorInfo(
                reason=self.reason, domain=self.domain, metadata=self.metadata
            )
        )
        if self.violations:
            bad = error_details_pb2.BadRequest()
            for path, description in self.violations:
                bad.field_violations.add(field=path, description=description)
            attach(bad)
        if self.retry_after is not None:
            delay = Duration()
            delay.FromNanoseconds(round(self.retry_after * 1e9))
            attach(error_details_pb2.RetryInfo(retry_delay=delay))
        context.abort_with_status(rpc_status.to_status(status))


class Hold:
    """Wait until the call is over; `cancelled` is set if the client ended it."""


class Drop:
    """Stop the whole server at once, as if it were killed."""


def queued(position: int) -> image_generation_pb2.GenerateImageResponse:
    return image_generation_pb2.GenerateImageResponse(queued={"position": position})


def started(
    seed: int = 7,
    steps: int = 4,
    ignored: int = 0,
    adapters: Iterable[dict[str, Any]] = (),
    skipped_adapters: Iterable[dict[str, Any]] = (),
) -> image_generation_pb2.GenerateImageResponse:
    return image_generation_pb2.GenerateImageResponse(
        started={
            "seed": seed,
            "steps": steps,
            "adapters": list(adapters),
            "prompt_tokens": 12,
            "prompt_tokens_ignored": ignored,
            "skipped_adapters": list(skipped_adapters),
        }
    )


def step(
    number: int, total: int = 4, preview: bytes | None = None
) -> image_generation_pb2.GenerateImageResponse:
    response = image_generation_pb2.GenerateImageResponse(
        step={"step": number, "total_steps": total, "elapsed": Duration(nanos=number * 100_000_000)}
    )
    if preview is not None:
        response.step.preview.image = preview
        response.step.preview.media_type = "image/jpeg"
    return response


def completed(seed: int = 7, image: bytes = JPEG) -> image_generation_pb2.GenerateImageResponse:
    return image_generation_pb2.GenerateImageResponse(
        completed={
            "image": image,
            "media_type": "image/jpeg",
            "width": 1024,
            "height": 1024,
            "seed": seed,
            "timings": {
                "queued": Duration(nanos=1_000_000),
                "text_encode": Duration(nanos=2_000_000),
                "denoise": Duration(seconds=1, nanos=500_000_000),
                "decode": Duration(nanos=3_000_000),
                "jpeg_encode": Duration(nanos=4_000_000),
                "total": Duration(seconds=2),
            },
        }
    )


def whole_image(seed: int = 7) -> list[Any]:
    return [
        queued(2),
        queued(1),
        started(seed, adapters=[adapter_use("ink", 0.8)]),
        *(step(n) for n in range(1, 5)),
        completed(seed),
    ]


def adapter_use(name: str, weight: float) -> dict[str, Any]:
    return {"name": name, "weight": weight, "content_hash": HASH, "generation": 3}


def adapter(name: str, **fields: Any) -> adapter_pb2.Adapter:
    values: dict[str, Any] = {
        "title": name.title(),
        "trigger_words": ["ink wash"],
        "rank": 16,
        "size_bytes": 24_300_000,
        "content_hash": HASH,
        "state": adapter_pb2.ADAPTER_STATE_AVAILABLE,
    }
    return adapter_pb2.Adapter(name=name, **(values | fields))


def change(revision: int, **event: Any) -> adapter_pb2.WatchAdaptersResponse:
    return adapter_pb2.WatchAdaptersResponse(
        revision=revision, resume_token=f"token-{revision}", **event
    )


def snapshot(revision: int, *adapters: adapter_pb2.Adapter) -> adapter_pb2.WatchAdaptersResponse:
    return change(revision, snapshot={"adapters": adapters})


class FakeImageServer(
    image_generation_pb2_grpc.ImageGenerationServiceServicer,
    adapter_pb2_grpc.AdapterServiceServicer,
):
    """The fake. Fill `images` and `watches` with scripts; a call beyond them plays `default`."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="wuliart-fake-"))
        self.socket = self.directory / "s"
        self.target = f"unix:{self.socket}"
        self.default: list[Any] = whole_image()
        self.images: deque[list[Any]] = deque()
        self.watches: deque[list[Any]] = deque()
        self.unary_failures: deque[Fail] = deque()
        self.adapters: list[adapter_pb2.Adapter] = []
        self.thumbnails: dict[str, bytes] = {}
        self.info = image_generation_pb2.GetServerInfoResponse(version="9.9")
        self.requests: list[image_generation_pb2.GenerateImageRequest] = []
        self.resume_tokens: list[str] = []
        self.holding = threading.Event()
        self.cancelled = threading.Event()
        self._server: grpc.Server | None = None

    def start(self) -> None:
        # A server that still stops would remove the socket of the next one.
        self.stop()
        self.socket.unlink(missing_ok=True)
        server = grpc.server(ThreadPoolExecutor(8))
        image_generation_pb2_grpc.add_ImageGenerationServiceServicer_to_server(self, server)
        adapter_pb2_grpc.add_AdapterServiceServicer_to_server(self, server)
        assert server.add_insecure_port(self.target)
        server.start()
        self._server = server

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop(None).wait(DEADLINE)
            self._server = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _play(self, script: list[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        over = threading.Event()
        played = threading.Event()

        def on_over() -> None:
            if not played.is_set():
                self.cancelled.set()
            over.set()

        # From the start: grpc does not go on with the script of a call that was cancelled.
        if not context.add_callback(on_over):
            on_over()
        for item in script:
            if isinstance(item, Fail):
                played.set()
                item.raise_on(context)
            elif isinstance(item, Hold):
                self.holding.set()
                over.wait(DEADLINE)
            elif isinstance(item, Drop):
                assert self._server is not None
                self._server.stop(None)
                over.wait(DEADLINE)
            else:
                yield item
        played.set()

    def _fail_unary(self, context: grpc.ServicerContext) -> None:
        if self.unary_failures:
            self.unary_failures.popleft().raise_on(context)

    def GenerateImage(self, request: Any, context: Any) -> Iterator[Any]:
        self.requests.append(request)
        yield from self._play(self.images.popleft() if self.images else self.default, context)

    def WatchAdapters(self, request: Any, context: Any) -> Iterator[Any]:
        self.resume_tokens.append(request.resume_token)
        yield from self._play(self.watches.popleft() if self.watches else [Hold()], context)

    def ListAdapters(self, request: Any, context: Any) -> Any:
        self._fail_unary(context)
        return adapter_pb2.ListAdaptersResponse(adapters=self.adapters, revision=1)

    def GetAdapterThumbnail(self, request: Any, context: Any) -> Any:
        self._fail_unary(context)
        return adapter_pb2.GetAdapterThumbnailResponse(jpeg=self.thumbnails.get(request.name, b""))

    def GetServerInfo(self, request: Any, context: Any) -> Any:
        self._fail_unary(context)
        return self.info
