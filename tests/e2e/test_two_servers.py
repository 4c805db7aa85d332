"""Tests of plain servers behind gRPC's own round robin, as in docs/scale-out.md."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.processes import Service
from tests.e2e.conftest import PATIENCE, LiveService, layout_of
from tests.support.ports import free_port
from wuliart_client import Client


@pytest.fixture
def cards(tmp_path: Path, small_model: Path) -> Iterator[list[LiveService]]:
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
        lives.append(LiveService(service, layout_of(small_model)))
    try:
        for live in lives:
            live.service.wait_until_ready()
            live.wait_attached()
        yield lives
    finally:
        for live in lives:
            live.client.close()
            live.service.stop()


def completed(live: LiveService) -> int:
    """Returns the number of images that the server has completed."""
    return live.service.log("server").read_text().count("image completed")


def test_servers_share_requests_and_a_killed_one_is_skipped(cards: list[LiveService]) -> None:
    first, second = cards
    first.drop("ink", first.adapter_file(1))
    for live in cards:
        live.wait_usable("ink")
    all_servers = "ipv4:" + ",".join(live.service.listen for live in cards)
    with Client(all_servers) as client:

        def generate() -> bytes:
            return client.generate_image(
                "a boat", seed=1, steps=1, adapters=["ink"], metadata=False
            ).data

        # Requests alternate once both are connected; until then one server may get more.
        images = {generate()}
        while not all(completed(live) for live in cards):
            images.add(generate())
        before = [completed(live) for live in cards]
        images |= {generate() for _ in range(4)}
        # The image does not depend on the server.
        assert len(images) == 1
        assert [completed(live) for live in cards] == [count + 2 for count in before]

        first.service.kill("server")
        for _ in range(2):
            client.generate_image("a boat", steps=1, adapters=["ink"], timeout=PATIENCE)
        assert completed(second) == before[1] + 4

    wuliart = Path(sys.executable).with_name("wuliart")
    result = subprocess.run(
        [wuliart, "generate", "a boat", "--steps", "1", "--json", "--target", all_servers],
        cwd=first.loras.parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert json.loads(result.stdout)["steps"] == 1
