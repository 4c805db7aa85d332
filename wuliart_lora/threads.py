"""Runs work on many arrays in threads, on at most half of the processor's cores.

The other half is left to the server. numpy releases Python's lock, so threads are enough.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

T = TypeVar("T")
R = TypeVar("R")

MOST: Final = 4
"""More threads wait for Python's lock, and for memory: a 300 MB file takes 335 ms with 4 of 16
cores, 365 with 8, 465 with 1 (200 of it is its hash, which runs beside)."""


def in_threads(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Returns `work` of every item in order; raises the error of the first item that fails."""
    workers = min(MOST, (os.cpu_count() or 1) // 2)
    if workers < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(workers, "arrays") as pool:
        return list(pool.map(work, items))
