"""Serves the thumbnails of adapters, which the server keeps, under their hashes.

An address names the bytes and no file: what is served is what the server returned for an adapter
that is listed with this hash, and nothing is read from a disk.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Final

from fastapi import APIRouter, HTTPException, Response

from wuliart_client import AsyncClient, WuliArtError
from wuliart_web.service_watch import ServiceWatch

MAX_CACHED: Final = 512
"""Thumbnails kept, those used last; at most 16 MB."""


def address(thumbnail_hash: str) -> str:
    """Returns the path under which a thumbnail is served."""
    return f"/thumbnails/{thumbnail_hash}"


class Thumbnails:
    """The thumbnails of the adapters that the server lists now.

    Args:
        client: calls the service.
        service: knows the adapters.
    """

    def __init__(self, client: AsyncClient, service: ServiceWatch) -> None:
        self._client = client
        self._service = service
        self._cached: OrderedDict[str, bytes] = OrderedDict()

    def router(self) -> APIRouter:
        """Returns the route that serves them."""
        routes = APIRouter()

        @routes.api_route(address("{thumbnail_hash}"), methods=["GET", "HEAD"])
        async def thumbnail(thumbnail_hash: str) -> Response:
            """Serves one thumbnail."""
            jpeg = await self._get(thumbnail_hash)
            if jpeg is None:
                raise HTTPException(404, "No style has this thumbnail now: reload the page.")
            headers = {"Cache-Control": "private, max-age=31536000, immutable"}
            return Response(jpeg, media_type="image/jpeg", headers=headers)

        return routes

    async def _get(self, thumbnail_hash: str) -> bytes | None:
        adapters = self._service.state.adapters
        name = next((a.name for a in adapters if a.thumbnail_hash == thumbnail_hash), None)
        if name is None:
            return None
        jpeg = self._cached.pop(thumbnail_hash, None)
        if jpeg is None:
            try:
                jpeg = await self._client.thumbnail(name)
            except WuliArtError as error:
                raise HTTPException(503, "The server does not answer.") from error
            if jpeg is None or hashlib.sha256(jpeg).hexdigest() != thumbnail_hash:
                return None  # it has just changed
        self._cached[thumbnail_hash] = jpeg
        if len(self._cached) > MAX_CACHED:
            self._cached.popitem(last=False)
        return jpeg
