"""Simulates up to 64 cards, with times measured on few, to find where a fleet saturates.

    python -m benchmarks.fleet.simulation [--out FILE]

The model: Poisson arrivals; the product's own router, `Affinity`; one image at a time per card; an
absent adapter delays its own image only; the front is one process. Times name their source.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks.report import percentile
from inference_server.ray_app.affinity import Affinity

IMAGE_SECONDS: Final = {"H200": 0.50, "24 GB card": 3.0}
"""An image of four steps: two servers generated 1.98 a second each
(results/2026-11-27-two-h200.json); 3 s on a 24 GB card is what the product aims at."""

PROMOTION_SECONDS: Final = 0.46
"""An adapter of 296 MB from a closed file to usable, p95 (results/2026-11-24-h200.json)."""

ADAPTER_BYTES: Final = 296e6
IMAGE_BYTES: Final = 0.4e6

FRONT_SECONDS: Final = 0.0113
"""Seconds of one core of the front per image and its events (results/fleet.json, `throughput`)."""

SLOTS: Final = 2
IMAGES: Final = 20_000


@dataclass(frozen=True)
class Point:
    """Results of one fleet at one load."""

    cards: int
    rate: float
    """Images per second."""
    found: float
    """Share of images whose adapter was in memory."""
    median: float
    p99: float
    """Seconds from an image's request to its end."""
    front: float
    """Cores that the front needs."""
    storage: float
    """Bytes of adapters read per second by all cards, without page caches."""


def simulate(cards: int, load: float, seconds: float, adapters: int, seed: int = 1) -> Point:
    """Simulates `IMAGES` images.

    Args:
        cards: number of cards.
        load: arrivals as a share of the cards' capacity.
        seconds: per image on a card.
        adapters: number of adapters, with Zipf's popularity; each image uses one.
        seed: of the arrivals.
    """
    rnd, affinity = random.Random(seed), Affinity(SLOTS)
    rate = load * cards / seconds
    weights = [1 / (n + 1) for n in range(adapters)]
    names = [f"adapter{n}" for n in range(adapters)]
    ids = [f"card{n}" for n in range(cards)]
    loads, free = dict.fromkeys(ids, 0), dict.fromkeys(ids, 0.0)
    ending: list[tuple[float, str]] = []
    now = front = 0.0
    found, took = 0, []
    for _ in range(IMAGES):
        now += rnd.expovariate(rate)
        while ending and ending[0][0] <= now:
            loads[heapq.heappop(ending)[1]] -= 1
        front = max(front, now) + FRONT_SECONDS
        (adapter,) = rnd.choices(names, weights)
        card = affinity.order(loads, [adapter])[0]
        here = affinity.holds(card, [adapter])
        found += here
        affinity.assigned(card, [adapter])
        begins = max(free[card], front + (0.0 if here else PROMOTION_SECONDS))
        free[card] = begins + seconds
        loads[card] += 1
        heapq.heappush(ending, (free[card], card))
        took.append(free[card] - now)
    share = found / IMAGES
    return Point(
        cards, rate, share, percentile(took, 0.5), percentile(took, 0.99), rate * FRONT_SECONDS,
        rate * (1 - share) * ADAPTER_BYTES,
    )  # fmt: skip


def main() -> None:
    """Prints a table for each kind of card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    chosen, found = parser.parse_args(), []
    for kind, seconds in IMAGE_SECONDS.items():
        table = Table(
            *("cards", "adapters", "load", "images/s", "adapter found", "median", "p99"),
            *("front, cores", "adapters read", "JPEG out"),
            title=f"{kind}: {seconds} s an image",
        )
        for cards in (1, 4, 16, 64):
            for adapters in (8, 64, 512):
                for load in (0.7, 0.9):
                    p = simulate(cards, load, seconds, adapters)
                    found.append({"kind": kind, "adapters": adapters, "load": load} | vars(p))
                    table.add_row(
                        *(f"{cards}", f"{adapters}", f"{load:.0%}", f"{p.rate:.1f}"),
                        *(f"{p.found:.0%}", f"{p.median:.2f} s", f"{p.p99:.2f} s"),
                        *(f"{p.front:.2f}", f"{p.storage / 1e9:.2f} GB/s"),
                        f"{p.rate * IMAGE_BYTES / 1e6:.0f} MB/s",
                    )
        Console(width=140).print(table)
    if chosen.out:
        chosen.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
