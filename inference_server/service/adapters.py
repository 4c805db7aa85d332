"""`wuliart.v1.AdapterService`: the catalogue as messages.

Owns the translation and the resume token; knows nothing of how adapters come and go.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

from grpc import aio

from inference_server.adapters.changes import Change, ChangeKind, Changes
from inference_server.adapters.records import Adapter, AdapterState
from wuliart.v1 import adapter_pb2 as pb
from wuliart.v1 import adapter_pb2_grpc as rpc

Context = aio.ServicerContext[Any, Any]

MAX_REVISION_DIGITS = 20
"""Of a 64-bit number."""

STATES = {
    AdapterState.RESIDENT: pb.ADAPTER_STATE_RESIDENT,
    AdapterState.AVAILABLE: pb.ADAPTER_STATE_AVAILABLE,
    AdapterState.REFUSED: pb.ADAPTER_STATE_REFUSED,
    AdapterState.WAITING: pb.ADAPTER_STATE_WAITING,
}


class Adapters(rpc.AdapterServiceServicer):
    """The servicer.

    Args:
        styles: where they are listed, and what tells this list from an earlier life's; raises
            RequestError while there is none.
    """

    def __init__(self, styles: Callable[[], tuple[Changes, str]]) -> None:
        self._styles = styles

    async def ListAdapters(
        self, request: pb.ListAdaptersRequest, context: Context
    ) -> pb.ListAdaptersResponse:
        """See the .proto file."""
        catalog, _ = self._styles()
        return pb.ListAdaptersResponse(
            adapters=[_adapter(a) for a in catalog.adapters], revision=catalog.revision
        )

    async def WatchAdapters(
        self, request: pb.WatchAdaptersRequest, context: Context
    ) -> AsyncIterator[pb.WatchAdaptersResponse]:
        """See the .proto file."""
        catalog, epoch = self._styles()
        since = _revision_of(request.resume_token, epoch)
        async with aclosing(catalog.watch(since)) as changes:
            async for change in changes:
                yield _response(change, epoch)


def _revision_of(token: str, epoch: str) -> int | None:
    """The revision a token stands for; None if it is of another server life, or no token."""
    life, _, revision = token.partition(":")
    digits = revision.isascii() and revision.isdecimal() and len(revision) <= MAX_REVISION_DIGITS
    if life != epoch or not digits:
        return None
    return int(revision)


def _response(change: Change, epoch: str) -> pb.WatchAdaptersResponse:
    response = pb.WatchAdaptersResponse(
        revision=change.revision, resume_token=f"{epoch}:{change.revision}"
    )
    messages = [_adapter(a) for a in change.adapters]
    match change.kind:
        case ChangeKind.SNAPSHOT:
            response.snapshot.CopyFrom(pb.AdapterSnapshot(adapters=messages))
        case ChangeKind.ADDED:
            response.added.CopyFrom(messages[0])
        case ChangeKind.UPDATED:
            response.updated.CopyFrom(messages[0])
        case ChangeKind.REMOVED:
            response.removed.CopyFrom(messages[0])
        case ChangeKind.REFUSED:
            response.refused.CopyFrom(messages[0])
    return response


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
        generation=adapter.generation,
        slot=adapter.slot,
        pinned=adapter.pinned,
    )
    if adapter.state is AdapterState.RESIDENT:
        message.resident_since.FromNanoseconds(int(adapter.resident_since * 1e9))
    return message
