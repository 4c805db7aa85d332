"""Independent servers, one for each GPU, behind gRPC's client-side round robin.

    python -m benchmarks.fleet.two_cards [--cards 2] [--seconds 60] [--tiny] [--out FILE]

Measures the throughput of each server alone, and of all together through one client.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.report import Report
from scripts.processes import Service, free_port
from wuliart_client import Client

CLIENTS = 3
"""Per card: one image is generated, one is ready, one is being delivered."""

PROMPT = "a lighthouse on a cliff above a stormy sea at dusk"


class Card(Service):
    """A server and its manager on one GPU."""

    number = 0

    def start_server(self) -> None:
        """Starts the server without waiting for it."""
        os.environ["CUDA_VISIBLE_DEVICES"] = str(self.number)
        self._start("server", "benchmarks.full_size.random_server", ["--listen", self.listen])


def images(target: str, clients: int, seconds: float) -> float:
    """Returns images per second of `clients` in a loop, after two warm-up images each."""
    ends, lock, counted = 0.0, threading.Lock(), [0]

    def begin() -> None:
        nonlocal ends
        ends = time.monotonic() + seconds

    warm = threading.Barrier(clients, begin)

    def ask(client: Client, seed: int) -> None:
        for _ in range(2):
            client.generate_image(PROMPT, seed=seed)
        warm.wait()
        while time.monotonic() < ends:
            client.generate_image(PROMPT, seed=seed)
            with lock:
                counted[0] += time.monotonic() < ends

    with Client(target) as client:
        threads = [threading.Thread(target=ask, args=(client, n)) for n in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return counted[0] / seconds


def main() -> None:
    """Starts the servers, measures, and reports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cards", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    if chosen.tiny:
        os.environ["WULIART_TINY"] = "1"
    line: dict[str, object] = {"cards": chosen.cards}
    report = Report(line, line, chosen.out)
    with tempfile.TemporaryDirectory(prefix="wuliart-cards-") as name, ExitStack() as stack:
        cards: list[Card] = []
        began = time.monotonic()
        for number in range(chosen.cards):
            folder = Path(name) / str(number)
            card = Card(folder, Path(name) / "loras", listen=f"127.0.0.1:{free_port()}")
            card.number = number
            stack.callback(card.stop)
            card.start_server()
            card.start_manager()
            cards.append(card)
        for card in cards:
            card.wait_until_ready(600)
        report("all ready, s", time.monotonic() - began)
        measure(cards, chosen.seconds, report)
    print(report.text())


def measure(cards: Sequence[Card], seconds: float, report: Report) -> None:
    """Measures each alone, all together, and each alone again, because cards' clocks drift."""
    alone = []
    for when in ("before", "after"):
        for card in cards:
            alone.append(images(card.listen, CLIENTS, seconds / 2))
            report(f"card {card.number} alone, {when}, images/s", alone[-1])
        if when == "before":
            everyone = "ipv4:" + ",".join(card.listen for card in cards)
            together = images(everyone, CLIENTS * len(cards), seconds)
            report("together, images/s", together)
    report("together against one", together / (sum(alone) / len(alone)))


if __name__ == "__main__":
    main()
