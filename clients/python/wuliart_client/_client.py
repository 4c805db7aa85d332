"""The blocking and the asyncio client. Code that does not wait is shared, in other modules.

Keep the two twins: the same methods and arguments in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import copy
from types import TracebackType
from typing import Self

import grpc
from grpc import aio

from wuliart.v1.adapter_pb2 import GetAdapterThumbnailRequest, WatchAdaptersRequest
from wuliart.v1.adapter_pb2_grpc import AdapterServiceStub
from wuliart.v1.image_generation_pb2 import GetServerInfoRequest
from wuliart.v1.image_generation_pb2_grpc import ImageGenerationServiceStub
from wuliart_client._adapters import Adapter, AdapterEvent, ListReader, WatchReader
from wuliart_client._channel import (
    TLS,
    UNARY_SECONDS,
    Countdown,
    authorization,
    channel_options,
    resolve_target,
    resolve_tls,
)
from wuliart_client._events import Event, GenerationReader, finished_image
from wuliart_client._failures import CallContext
from wuliart_client._image import GeneratedImage
from wuliart_client._requests import AdapterLike, build_generate_request
from wuliart_client._server_info import ServerInfo, read_server_info
from wuliart_client._streams import AsyncEventStream, EventStream
from wuliart_client._tracing import outgoing_metadata

_CLOSED = "the client is closed: make a new one"


class Client:
    """A connection to one WuliArt server; safe to share between threads.

    `target` is "host:port" or "unix:/path"; None means `$WULIART_TARGET`, else 127.0.0.1:50051.
    Connects with the first call. A call that the server answers with UNAVAILABLE before its first
    response is tried up to 4 times. Every method raises `WuliArtError` if it fails, and takes a
    timeout in seconds, None for no limit. A server that stops answering in the middle of a call is
    noticed within 20 s, and one that cannot be connected to within 10 s; both raise `Unavailable`.
    Use it as a context manager, or call `close()`.

    An HTTP proxy of `$grpc_proxy`, `$https_proxy` or `$http_proxy` is used as gRPC does, but never
    for a Unix socket or an address of this machine.

    `token` is sent with every call; None means `$WULIART_TOKEN`, else none is sent. `tls` None
    means TLS with the authority in `$WULIART_TLS_CA`, else no TLS.
    """

    def __init__(
        self, target: str | None = None, *, token: str | None = None, tls: TLS | None = None
    ) -> None:
        self.target = resolve_target(target)
        self._metadata = authorization(token)
        self._channel: grpc.Channel | None
        options = channel_options(self.target)
        if (tls := resolve_tls(tls)) is None:
            self._channel = grpc.insecure_channel(self.target, options=options)
        else:
            self._channel = grpc.secure_channel(self.target, tls.credentials(), options=options)

    def _open(self) -> grpc.Channel:
        if self._channel is None:
            raise RuntimeError(_CLOSED)
        return self._channel

    def generate(
        self,
        prompt: str,
        *,
        seed: int | None = None,
        steps: int | None = None,
        adapters: Iterable[AdapterLike] = (),
        preview: bool = False,
        metadata: bool = True,
        timeout: float | None = None,
    ) -> EventStream[Event]:
        """Sends a request for an image; iterating the result yields its events.

        Args:
            prompt: English or Chinese text.
            seed: seed of the initial noise, 0 to 2**64 - 1. None: the server picks and reports one.
            steps: denoising steps. None: the number that the model was made for.
            adapters: up to 4, each a name, a (name, weight) pair or an `AdapterWeight`.
            preview: True for a small JPEG in each `Step`.
            metadata: False leaves the recipe (see `read_recipe`) out of the image's file.
            timeout: deadline of the whole request in seconds. None: no limit.
        """
        request = build_generate_request(prompt, seed, steps, adapters, preview, metadata)
        call = ImageGenerationServiceStub(self._open()).GenerateImage(
            request, timeout=timeout, metadata=outgoing_metadata(self._metadata)
        )
        return EventStream(call, GenerationReader(), CallContext(self.target, timeout))

    def generate_image(
        self,
        prompt: str,
        *,
        seed: int | None = None,
        steps: int | None = None,
        adapters: Iterable[AdapterLike] = (),
        preview: bool = False,
        metadata: bool = True,
        timeout: float | None = None,
        on_event: Callable[[Event], object] | None = None,
    ) -> GeneratedImage:
        """Generates an image and waits for it; the arguments are those of `generate`.

        `on_event` is called with every event. An exception it raises cancels the request and
        propagates.
        """
        with self.generate(
            prompt,
            seed=seed,
            steps=steps,
            adapters=adapters,
            preview=preview,
            metadata=metadata,
            timeout=timeout,
        ) as events:
            event: Event | None = None
            for event in events:
                if on_event is not None:
                    on_event(event)
        return finished_image(event)

    def adapters(self, *, timeout: float | None = UNARY_SECONDS) -> list[Adapter]:
        """Returns all adapters sorted by name, refused ones included."""
        pages, clock = ListReader(), Countdown(timeout)
        with CallContext(self.target, timeout).errors():
            stub = AdapterServiceStub(self._open())
            while (request := pages.request) is not None:
                response = stub.ListAdapters(
                    request, timeout=clock.left(), metadata=outgoing_metadata(self._metadata)
                )
                pages.read(response)
        return pages.adapters

    def thumbnail(self, name: str, *, timeout: float | None = UNARY_SECONDS) -> bytes | None:
        """Returns an adapter's thumbnail, a JPEG of at most 256 pixels an edge; None without one.

        The LoRA manager makes it from an image beside the adapter's file.
        """
        with CallContext(self.target, timeout).errors():
            response = AdapterServiceStub(self._open()).GetAdapterThumbnail(
                GetAdapterThumbnailRequest(name=name),
                timeout=timeout,
                metadata=outgoing_metadata(self._metadata),
            )
        return response.jpeg or None

    def watch(
        self, resume_token: str | None = None, *, timeout: float | None = None
    ) -> EventStream[AdapterEvent]:
        """Streams a snapshot of all adapters, then each change.

        With the `resume_token` of an earlier event the stream continues after that event if the
        server still has the changes since then; otherwise it begins with a new snapshot.
        """
        request = WatchAdaptersRequest(resume_token=resume_token or "")
        call = AdapterServiceStub(self._open()).WatchAdapters(
            request, timeout=timeout, metadata=outgoing_metadata(self._metadata)
        )
        return EventStream(call, WatchReader(), CallContext(self.target, timeout))

    def info(self, *, timeout: float | None = UNARY_SECONDS) -> ServerInfo:
        """Returns the server's model, device, limits, memory use and queue length."""
        with CallContext(self.target, timeout).errors():
            stub = ImageGenerationServiceStub(self._open())
            response = stub.GetServerInfo(
                GetServerInfoRequest(),
                timeout=timeout,
                metadata=outgoing_metadata(self._metadata),
            )
        return read_server_info(response)

    def with_token(self, token: str) -> Client:
        """Returns a client with another token that uses, and depends on, this connection."""
        other = copy(self)
        other._metadata = authorization(token)
        return other

    def close(self) -> None:
        """Cancels running calls and closes the connection."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class AsyncClient:
    """The twin of `Client` for asyncio; all its calls belong to one event loop."""

    def __init__(
        self, target: str | None = None, *, token: str | None = None, tls: TLS | None = None
    ) -> None:
        self.target = resolve_target(target)
        self._metadata = authorization(token)
        tls = resolve_tls(tls)
        self._credentials = None if tls is None else tls.credentials()
        self._channel: aio.Channel | None = None
        self._closed = False

    def _open(self) -> aio.Channel:
        if self._closed:
            raise RuntimeError(_CLOSED)
        if self._channel is None:
            # Not in the constructor: a channel belongs to the event loop in which it is created.
            options = channel_options(self.target)
            if self._credentials is None:
                self._channel = aio.insecure_channel(self.target, options=options)
            else:
                self._channel = aio.secure_channel(self.target, self._credentials, options=options)
        return self._channel

    def generate(
        self,
        prompt: str,
        *,
        seed: int | None = None,
        steps: int | None = None,
        adapters: Iterable[AdapterLike] = (),
        preview: bool = False,
        metadata: bool = True,
        timeout: float | None = None,
    ) -> AsyncEventStream[Event]:
        """See `Client.generate`."""
        request = build_generate_request(prompt, seed, steps, adapters, preview, metadata)
        call = ImageGenerationServiceStub(self._open()).GenerateImage(
            request, timeout=timeout, metadata=outgoing_metadata(self._metadata)
        )
        return AsyncEventStream(call, GenerationReader(), CallContext(self.target, timeout))

    async def generate_image(
        self,
        prompt: str,
        *,
        seed: int | None = None,
        steps: int | None = None,
        adapters: Iterable[AdapterLike] = (),
        preview: bool = False,
        metadata: bool = True,
        timeout: float | None = None,  # noqa: ASYNC109 - the call's deadline, also for the server
        on_event: Callable[[Event], object] | None = None,
    ) -> GeneratedImage:
        """See `Client.generate_image`."""
        async with self.generate(
            prompt,
            seed=seed,
            steps=steps,
            adapters=adapters,
            preview=preview,
            metadata=metadata,
            timeout=timeout,
        ) as events:
            event: Event | None = None
            async for event in events:
                if on_event is not None:
                    on_event(event)
        return finished_image(event)

    async def adapters(
        self,
        *,
        timeout: float | None = UNARY_SECONDS,  # noqa: ASYNC109 - the call's, also for the server
    ) -> list[Adapter]:
        """See `Client.adapters`."""
        pages, clock = ListReader(), Countdown(timeout)
        with CallContext(self.target, timeout).errors():
            stub = AdapterServiceStub(self._open())
            while (request := pages.request) is not None:
                response = await stub.ListAdapters(
                    request, timeout=clock.left(), metadata=outgoing_metadata(self._metadata)
                )
                pages.read(response)
        return pages.adapters

    async def thumbnail(
        self,
        name: str,
        *,
        timeout: float | None = UNARY_SECONDS,  # noqa: ASYNC109 - the call's, also for the server
    ) -> bytes | None:
        """See `Client.thumbnail`."""
        with CallContext(self.target, timeout).errors():
            response = await AdapterServiceStub(self._open()).GetAdapterThumbnail(
                GetAdapterThumbnailRequest(name=name),
                timeout=timeout,
                metadata=outgoing_metadata(self._metadata),
            )
        return response.jpeg or None

    def watch(
        self, resume_token: str | None = None, *, timeout: float | None = None
    ) -> AsyncEventStream[AdapterEvent]:
        """See `Client.watch`."""
        request = WatchAdaptersRequest(resume_token=resume_token or "")
        call = AdapterServiceStub(self._open()).WatchAdapters(
            request, timeout=timeout, metadata=outgoing_metadata(self._metadata)
        )
        return AsyncEventStream(call, WatchReader(), CallContext(self.target, timeout))

    async def info(
        self,
        *,
        timeout: float | None = UNARY_SECONDS,  # noqa: ASYNC109 - the call's, also for the server
    ) -> ServerInfo:
        """See `Client.info`."""
        with CallContext(self.target, timeout).errors():
            stub = ImageGenerationServiceStub(self._open())
            response = await stub.GetServerInfo(
                GetServerInfoRequest(),
                timeout=timeout,
                metadata=outgoing_metadata(self._metadata),
            )
        return read_server_info(response)

    def with_token(self, token: str) -> AsyncClient:
        """See `Client.with_token`."""
        self._open()  # so that both clients share one channel
        other = copy(self)
        other._metadata = authorization(token)
        return other

    async def aclose(self) -> None:
        """Cancels running calls and closes the connection."""
        self._closed = True
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()
