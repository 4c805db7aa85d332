"""Images that the page shows: kept for a while under addresses nobody can guess.

Owns their names and how many are kept. Knows nothing of who asked for them: whoever has an address
may look, so an address is told to one visitor only.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from fastapi import APIRouter, HTTPException, Response

from wuliart_client import NAME_PATTERN

KEPT: Final = 128
"""Images kept, the newest; about 40 MB."""


class Images:
    """Finished images by address.

    Args:
        now: tells the local time.
    """

    def __init__(self, now: Callable[[], datetime] = datetime.now) -> None:
        self._now = now
        self._kept: OrderedDict[tuple[str, str], bytes] = OrderedDict()

    def add(self, data: bytes) -> str:
        """Keeps a JPEG; its address, which ends in a name that no other image has."""
        moment, taken = self._now(), {name for _, name in self._kept}
        # From the clock each time: one that was ahead for a moment must not name what follows.
        while (name := moment.strftime(NAME_PATTERN)) in taken:
            moment += timedelta(seconds=1)
        token = secrets.token_urlsafe(16)
        self._kept[token, name] = data
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return f"/images/{token}/{name}"

    def router(self) -> APIRouter:
        """The route that serves them."""
        routes = APIRouter()

        @routes.api_route("/images/{token}/{name}", methods=["GET", "HEAD"])
        async def image(token: str, name: str) -> Response:
            """One image."""
            data = self._kept.get((token, name))
            if data is None:
                raise HTTPException(404, "This image is not kept any more: generate it again.")
            headers = {
                "Content-Disposition": f'inline; filename="{name}"',
                "Cache-Control": "private, max-age=3600",
            }
            return Response(data, media_type="image/jpeg", headers=headers)

        return routes
