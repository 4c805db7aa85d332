"""Finished images that the page shows, kept for a while under addresses that cannot be guessed.

An address is the only protection of its image, so the page gives it to one visitor only.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from fastapi import APIRouter, HTTPException, Response

from wuliart_client import NAME_PATTERN

MAX_IMAGES: Final = 128
"""Images kept, the newest ones; about 40 MB."""


class ImageStore:
    """Finished images by address.

    Args:
        now: returns the local time.
    """

    def __init__(self, now: Callable[[], datetime] = datetime.now) -> None:
        self._now = now
        self._images: OrderedDict[tuple[str, str], bytes] = OrderedDict()

    def add(self, data: bytes) -> str:
        """Keeps a JPEG and returns its address, which ends in a file name no other image has."""
        moment, taken = self._now(), {name for _, name in self._images}
        # From the clock each time: after the clock was ahead for a moment, later names are right.
        while (name := moment.strftime(NAME_PATTERN)) in taken:
            moment += timedelta(seconds=1)
        token = secrets.token_urlsafe(16)
        self._images[token, name] = data
        while len(self._images) > MAX_IMAGES:
            self._images.popitem(last=False)
        return f"/images/{token}/{name}"

    def router(self) -> APIRouter:
        """Returns the route that serves the images."""
        routes = APIRouter()

        @routes.api_route("/images/{token}/{name}", methods=["GET", "HEAD"])
        async def image(token: str, name: str) -> Response:
            """Serves one image."""
            data = self._images.get((token, name))
            if data is None:
                raise HTTPException(404, "This image is not kept any more: generate it again.")
            headers = {
                "Content-Disposition": f'inline; filename="{name}"',
                "Cache-Control": "private, max-age=3600",
            }
            return Response(data, media_type="image/jpeg", headers=headers)

        return routes
