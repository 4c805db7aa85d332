"""Tests of a server with less memory than its model, and of one with too little to start."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scripts.processes import Service
from tests.e2e.conftest import PATIENCE, LiveService
from wuliart_client import Client

PROMPTS = ("a boat", "a rocket on a purple background", "红色背景上的猫", "a fox")


def startup_error(folder: Path) -> str:
    """Returns the server's last line for a budget of one megabyte."""
    command = [sys.executable, "-m", "inference_server", "--vram-budget", "1MB"]
    listen = ["--listen", f"unix:{folder}/public.sock", "--runtime-dir", str(folder)]
    ended = subprocess.run([*command, *listen], capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode == 1
    return ended.stderr.splitlines()[-1]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server with the minimum budget that its error message names: every layer is streamed."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "run").mkdir(mode=0o700)
    message = startup_error(folder / "run")
    found = re.search(r"it needs (\d+) MB", message)
    assert found and "--vram-budget" in message, message
    arguments = ["--vram-budget", f"{found[1]}MB"]
    service = Service(folder / "run", folder / "loras", server_arguments=arguments)
    service.start_server()
    try:
        service.wait_until_ready()
        with Client(service.listen) as client:
            yield client
    finally:
        service.stop()


def test_info_shows_the_memory_plan(small: Client) -> None:
    segments = {segment.name: segment for segment in small.info().segments}
    assert not any(name.startswith(("blocks, ", "text encoder, ")) for name in segments)
    assert segments["streaming ring"].size_bytes > 0
    assert segments["adapter slots"].used_bytes == 0
    weights = segments["streamed weights"]
    assert weights.used_bytes > segments["streaming ring"].size_bytes
    assert {segment.location for segment in segments.values()} == {"host"}


def test_four_requests_at_once_give_the_same_images_as_alone(
    small: Client, trained: LiveService
) -> None:
    def generate(client: Client, prompt: str) -> bytes:
        return client.generate_image(prompt, seed=5, steps=2, metadata=False, timeout=PATIENCE).data

    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        together = list(pool.map(lambda prompt: generate(small, prompt), PROMPTS))
    assert together == [generate(trained.client, prompt) for prompt in PROMPTS]
