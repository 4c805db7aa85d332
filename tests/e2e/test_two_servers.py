"""Plain servers behind gRPC's own round robin, as docs/scale-out.md has them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.processes import Service, free_port
from tests.e2e.conftest import PATIENCE, Live, layout_of
from wuliart_client import Client


@pytest.fixture
def cards(tmp_path: Path, small_model: Path) -> Iterator[list[Live]]:
    lives = []
    for n in range(2):
        service = Service(
            tmp_path / str(n),
            tmp_path / "loras",
            f"127.0.0.1:{free_port()}",
            server_arguments=["--model", str(small_model)],
        )
        service.start_server()
        service.start_manager()
        lives.append(Live(service, layout_of(small_model)))
    try:
        for live in lives:
            live.service.wait_until_ready()
            live.wait_attached()
        yield lives
    finally:
        for live in lives:
            live.client.close()
            live.service.stop()


def drawn(live: Live) -> int:
    """Images that this server has completed."""
    return live.service.log("server").read_text().count("image completed")


def test_each_draws_its_share_and_one_that_dies_is_left_out(cards: list[Live]) -> None:
    first, second = cards
    first.drop("ink", first.adapter_file(1))
    for live in cards:
        live.wait_usable("ink")
    everyone = "ipv4:" + ",".join(live.service.listen for live in cards)
    with Client(everyone) as client:

        def draw() -> bytes:
            return client.generate_image(
                "a boat", seed=1, steps=1, adapters=["ink"], metadata=False
            ).data

        # Turns begin when both are connected; until then one may get more.
        images = {draw()}
        while not all(drawn(live) for live in cards):
            images.add(draw())
        before = [drawn(live) for live in cards]
        images |= {draw() for _ in range(4)}
        # Whoever generates it, it is the same image.
        assert len(images) == 1
        assert [drawn(live) for live in cards] == [count + 2 for count in before]

        first.service.kill("server")
        for _ in range(2):
            client.generate_image("a boat", steps=1, adapters=["ink"], timeout=PATIENCE)
        assert drawn(second) == before[1] + 4

    wuliart = Path(sys.executable).with_name("wuliart")
    told = subprocess.run(
        [wuliart, "generate", "a boat", "--steps", "1", "--json", "--target", everyone],
        cwd=first.loras.parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert json.loads(told.stdout)["steps"] == 1
