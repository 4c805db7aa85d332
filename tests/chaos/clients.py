"""Clients that generate without a pause, over gRPC and over the page's OpenAI interface.

Each request ends as an image, which is compared with the golden one of its version; as a named
error; or, which fails the test, it is lost or hangs.
"""

from __future__ import annotations

import base64
import io
import itertools
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Self

import httpx
import numpy as np
from PIL import Image

from tests.chaos.world import PATIENCE, PROMPT, World
from wuliart_client import DeadlineExceeded, ProtocolError, WuliArtError

GRPC_CLIENTS = 1

LATE = PATIENCE + 5
"""Seconds after which a call hangs: its own deadline has passed."""


def pixels(jpeg: bytes) -> bytes:
    """Returns the pixels of a JPEG; its header does not matter."""
    return np.asarray(Image.open(io.BytesIO(jpeg))).tobytes()


def _where(thread: threading.Thread) -> str:
    """That a thread never returned, and from what."""
    frame = sys._current_frames().get(thread.ident or 0)
    stack = "".join(traceback.format_stack(frame)) if frame else ""
    return f"{thread.name} never returned:\n{stack}"


class LoadClients:
    """Use as a context manager; inside, images are generated with the adapters in turn.

    Args:
        world: the server and its golden images.
        web_port: of the page; its client asks for the first adapter alone, whose version is
            `golden`: the door does not tell versions.
        golden: content hash of the first adapter.
        names: of adapters.
    """

    def __init__(self, world: World, web_port: int, golden: str, *names: str) -> None:
        self._world = world
        self._door = f"http://127.0.0.1:{web_port}/v1/images/generations"
        self._http = httpx.Client(timeout=PATIENCE)
        self._first, self._shown = names[0], pixels(world.golden[golden])
        self._names = itertools.cycle(names)
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._asking: dict[threading.Thread, tuple[Callable[[], None], float]] = {}
        """Running thread -> (its request, `time.monotonic()` when the request began)."""
        self.images = 0
        self.endings: Counter[str] = Counter()
        """Named errors."""
        self.wrong: list[str] = []
        self.lost: list[str] = []
        self.hung: list[str] = []

    def __enter__(self) -> Self:
        for ask in (*[self._by_grpc] * GRPC_CLIENTS, self._by_web):
            self._begin(ask)
        return self

    def _begin(self, ask: Callable[[], None]) -> None:
        thread = threading.Thread(target=self._again, args=(ask,), name=ask.__name__, daemon=True)
        self._asking[thread] = (ask, time.monotonic())
        thread.start()

    def replace_hung(self) -> None:
        """A client whose call outlives its own deadline is given up; another takes its place."""
        for thread, (ask, began) in list(self._asking.items()):
            if time.monotonic() - began > LATE:
                self.hung.append(_where(thread))
                del self._asking[thread]
                self._begin(ask)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        for thread, (_, began) in self._asking.items():
            thread.join(max(0.0, began + LATE - time.monotonic()))
        self.hung += [_where(thread) for thread in self._asking if thread.is_alive()]

    @property
    def requests(self) -> int:
        return sum((self.images, *map(len, (self.lost, self.hung)), *self.endings.values()))

    def check(self) -> None:
        """Every request ended as it should, and there were some."""
        assert not self.lost, f"{len(self.lost)} requests lost: {self.lost[:3]}"
        assert not self.hung, f"{len(self.hung)} requests hung: {self.hung[:3]}"
        assert not self.wrong, f"{len(self.wrong)} of {self.images} wrong: {self.wrong[:3]}"
        assert self.images > 0

    def _again(self, ask: Callable[[], None]) -> None:
        me = threading.current_thread()
        while not self._over.is_set() and me in self._asking:
            self._asking[me] = (ask, time.monotonic())
            try:
                ask()
            except (DeadlineExceeded, httpx.TimeoutException) as error:
                self.hung.append(repr(error))
            except ProtocolError as error:
                self.lost.append(repr(error))
            except WuliArtError as error:
                self._ended(f"{type(error).__name__} {error.reason or ''}".strip())
            except httpx.TransportError as error:
                # The page's own process is gone; a client sees only that the connection failed.
                self._ended(f"web: {type(error).__name__}")
            except Exception as error:
                self.lost.append(repr(error))

    def _ended(self, how: str) -> None:
        with self._lock:
            self.endings[how] += 1
        # A client does not retry a hundred times a second.
        self._over.wait(0.1)

    def _drawn(self, right: bool, what: str) -> None:
        with self._lock:
            self.images += 1
            if not right:
                self.wrong.append(what)

    def _by_grpc(self) -> None:
        with self._lock:
            name = next(self._names)
        image = self._world.image(name)
        (use,) = image.adapters
        right = image.data == self._world.golden.get(use.content_hash)
        self._drawn(right, f"{name} {use.content_hash[:8]} gen {use.generation}")

    def _by_web(self) -> None:
        body = {"prompt": PROMPT, "seed": 1, "steps": 1, "model": self._first}
        answer = self._http.post(self._door, json=body)
        if answer.status_code != httpx.codes.OK:
            error = answer.json()["error"]
            self._ended(f"web: {answer.status_code} {error['code'] or error['type']}")
            return
        (drawn,) = answer.json()["data"]
        shown = pixels(base64.b64decode(drawn["b64_json"]))
        self._drawn(shown == self._shown, f"{self._first} over the web")
