"""Generates images without a pause while a test disturbs the processes.

Every image is compared with the golden one of the version that its `started` event names.
"""

from __future__ import annotations

import itertools
import threading
from types import TracebackType
from typing import Self

from tests.chaos.world import World
from wuliart_client import WuliArtError

THREADS = 2
"""One image is being generated and the next one's adapters are bound already."""


class ImageLoop:
    """Use as a context manager; inside, images are generated in the adapters in turn."""

    def __init__(self, world: World, *names: str) -> None:
        self._world = world
        self._names = itertools.cycle(names)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._generated = threading.Condition(self._lock)
        self._threads = [threading.Thread(target=self._generate) for _ in range(THREADS)]
        self.images = 0
        self.wrong: list[str] = []
        self.errors: list[WuliArtError] = []
        self.versions: set[str] = set()
        self.steps: list[float] = []
        """Seconds of each denoising step."""

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for_more(self, images: int) -> None:
        """Returns when so many more images have been generated, or have failed."""
        with self._lock:
            wanted = self.images + len(self.errors) + images
            self._generated.wait_for(lambda: self.images + len(self.errors) >= wanted, 60)

    def check(self) -> None:
        """Every image was generated, and was that of the version it names."""
        assert not self.errors, f"{len(self.errors)} images failed: {self.errors[0]!r}"
        assert not self.wrong, f"{len(self.wrong)} of {self.images} wrong: {self.wrong[0]}"
        assert self.images > 0

    def _generate(self) -> None:
        while not self._stop.is_set():
            with self._lock:
                name = next(self._names)
            try:
                image = self._world.image(name)
            except WuliArtError as error:
                with self._generated:
                    self.errors.append(error)
                    self._generated.notify_all()
                continue
            (use,) = image.adapters
            with self._generated:
                self.images += 1
                self.versions.add(use.content_hash)
                self.steps.append(image.timings.denoise / image.steps)
                if image.data != self._world.golden.get(use.content_hash):
                    self.wrong.append(f"{use.name} {use.content_hash[:8]} gen {use.generation}")
                self._generated.notify_all()
