"""`wuliart.v1.AdapterService`: the catalog and its changes as messages, with resume tokens."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from typing import Any

from grpc import aio

from inference_server.adapters.binding_errors import not_found
from inference_server.adapters.changes import Change, ChangeKind, WatchedAdapters
from inference_server.adapters.records import Adapter, AdapterState
from inference_server.errors import RequestError, Violation
from inference_server.service import pages
from wuliart.v1 import adapter_pb2 as pb
from wuliart.v1 import adapter_pb2_grpc as rpc
from wuliart_contract.limits import MAX_ADAPTER_NAME_CHARACTERS
from wuliart_contract.status import Reason

Context = aio.ServicerContext[Any, Any]

MAX_REVISION_DIGITS = 20
"""Decimal digits of the largest 64-bit number."""

STATES = {
    AdapterState.RESIDENT: pb.ADAPTER_STATE_RESIDENT,
    AdapterState.AVAILABLE: pb.ADAPTER_STATE_AVAILABLE,
    AdapterState.REFUSED: pb.ADAPTER_STATE_REFUSED,
    AdapterState.WAITING: pb.ADAPTER_STATE_WAITING,
}


class AdapterServicer(rpc.AdapterServiceServicer):
    """The servicer.

    Args:
        adapters: returns the catalog, and the epoch that distinguishes it from the catalog of
            an earlier start; raises RequestError while there is none.
    """

    def __init__(self, adapters: Callable[[], tuple[WatchedAdapters, str]]) -> None:
        self._adapters = adapters

    async def ListAdapters(
        self, request: pb.ListAdaptersRequest, context: Context
    ) -> pb.ListAdaptersResponse:
        """See the .proto file."""
        catalog, _ = self._adapters()
        after = pages.start_of(request.page_size, request.page_token)
        adapters = catalog.adapters
        first = bisect_right(adapters, after, key=_name) if after is not None else 0
        page = next(pages.split(map(_adapter, adapters[first:]), request.page_size), [])
        end = first + len(page)
        token = pages.token(page[-1].name) if end < len(adapters) else ""
        return pb.ListAdaptersResponse(
            adapters=page, revision=catalog.revision, next_page_token=token
        )

    async def WatchAdapters(
        self, request: pb.WatchAdaptersRequest, context: Context
    ) -> AsyncIterator[pb.WatchAdaptersResponse]:
        """See the .proto file."""
        catalog, epoch = self._adapters()
        since = _revision_of(request.resume_token, epoch)
        async with aclosing(catalog.watch(since)) as changes:
            async for change in changes:
                for response in _responses(change, epoch):
                    yield response

    async def GetAdapterThumbnail(
        self, request: pb.GetAdapterThumbnailRequest, context: Context
    ) -> pb.GetAdapterThumbnailResponse:
        """See the .proto file."""
        catalog, _ = self._adapters()
        name, most = request.name, MAX_ADAPTER_NAME_CHARACTERS
        if not 0 < len(name) <= most:
            text = f"has {len(name)} characters; it must have 1 to {most}"
            raise RequestError(
                Reason.INVALID_REQUEST, f"name {text}", violations=[Violation("name", text)]
            )
        adapter = catalog.get(catalog.spelled(name))
        if adapter is None:
            raise not_found(name, catalog.nearest(name))
        return pb.GetAdapterThumbnailResponse(
            jpeg=catalog.thumbnails.jpeg(adapter.thumbnail_hash),
            thumbnail_hash=adapter.thumbnail_hash,
        )


def _revision_of(token: str, epoch: str) -> int | None:
    """Returns the revision in a resume token; None if it is not a token of this epoch."""
    token_epoch, _, revision = token.partition(":")
    digits = revision.isascii() and revision.isdecimal() and len(revision) <= MAX_REVISION_DIGITS
    if token_epoch != epoch or not digits:
        return None
    return int(revision)


def _responses(change: Change, epoch: str) -> Iterator[pb.WatchAdaptersResponse]:
    """Yields the change as one message; a snapshot as one or more."""
    token = f"{epoch}:{change.revision}"
    messages = map(_adapter, change.adapters)
    if change.kind is ChangeKind.SNAPSHOT:
        left = len(change.adapters)
        for part in pages.split(messages) if left else iter([[]]):
            left -= len(part)
            yield pb.WatchAdaptersResponse(
                revision=change.revision,
                resume_token="" if left else token,
                snapshot=pb.AdapterSnapshot(adapters=part, more=bool(left)),
            )
        return
    response = pb.WatchAdaptersResponse(revision=change.revision, resume_token=token)
    getattr(response, change.kind.value).CopyFrom(next(messages))
    yield response


def _name(adapter: Adapter) -> str:
    return adapter.entry.name


def _adapter(adapter: Adapter) -> pb.Adapter:
    entry = adapter.entry
    message = pb.Adapter(
        name=entry.name,
        title=entry.title,
        trigger_words=entry.trigger_words,
        rank=entry.rank,
        size_bytes=entry.size_bytes,
        content_hash=entry.content_hash,
        state=STATES[adapter.state],
        refusal_reason=entry.refusal_reason,
        waiting_reason=entry.waiting_reason,
        notes=entry.notes,
        thumbnail_hash=adapter.thumbnail_hash,
        generation=adapter.generation,
        slot=adapter.slot,
        pinned=adapter.pinned,
    )
    if adapter.state is AdapterState.RESIDENT:
        message.resident_since.FromNanoseconds(int(adapter.resident_since * 1e9))
    return message
