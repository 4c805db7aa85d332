"""Tests of the command line and of OpenAI's package against a whole service, without fakes."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from PIL import Image

from inference_server.config import EMBEDDED_MODEL
from tests.e2e.conftest import LiveService, running
from tests.support.ports import free_port
from wuliart_client import read_recipe


@pytest.fixture(scope="module")
def with_ink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """The embedded model, started once: no test here changes the service."""
    with running(tmp_path_factory.mktemp("live"), EMBEDDED_MODEL) as live:
        live.drop("ink", live.adapter_file(1))
        live.wait_usable("ink")
        yield live


@pytest.fixture(scope="module")
def openai_client(with_ink: LiveService) -> openai.OpenAI:
    port = free_port()
    with_ink.service.start_web(port)

    def answers() -> bool:
        with_ink.service.check()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5):
                return True
        except urllib.error.URLError:
            return False

    with_ink.wait(answers, "the page answers")
    return openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="x", max_retries=0)


def opened(b64: str | None) -> bytes:
    assert b64
    data = base64.b64decode(b64, validate=True)
    assert Image.open(io.BytesIO(data)).size == (1024, 1024)
    return data


def test_the_openai_package_generates(with_ink: LiveService, openai_client: openai.OpenAI) -> None:
    assert [model.id for model in openai_client.models.list()] == ["embedded", "ink"]
    bare: dict[str, Any] = {"seed": 7, "steps": 1}
    (plain,) = openai_client.images.generate(prompt="灯塔", extra_body=bare).data or ()
    (ink,) = openai_client.images.generate(prompt="灯塔", model="ink", extra_body=bare).data or ()
    recipe = read_recipe(opened(ink.b64_json))
    assert (recipe.prompt, recipe.seed, recipe.adapters[0].name) == ("灯塔", 7, "ink")
    assert Image.open(io.BytesIO(opened(plain.b64_json))) != Image.open(
        io.BytesIO(opened(ink.b64_json))
    )
    stream = openai_client.images.generate(prompt="a boat", stream=True, partial_images=2)
    assert [event.type for event in stream] == [
        "image_generation.partial_image", "image_generation.partial_image",
        "image_generation.completed",
    ]  # fmt: skip


def test_the_openai_package_gets_errors_that_name_the_field(openai_client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="imk"):
        openai_client.images.generate(prompt="a boat", model="imk")
    with pytest.raises(openai.BadRequestError) as empty:
        openai_client.images.generate(prompt=" ")
    assert empty.value.param == "prompt"


def test_the_command_generates_lists_and_explains(with_ink: LiveService, tmp_path: Path) -> None:
    def wuliart(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [Path(sys.executable).with_name("wuliart"), *arguments, "--target", listen],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    listen = with_ink.service.listen
    first = wuliart("generate", "a fox", "--seed", "7", "--adapter", "ink:0.5", "--json")
    assert first.returncode == 0, first.stderr
    result = json.loads(first.stdout)
    assert "Step 4/4" in first.stderr and (result["seed"], result["steps"]) == (7, 4)
    again = wuliart("generate", "--like", result["path"], "--json")
    images = [Path(tmp_path, json.loads(run.stdout)["path"]) for run in (first, again)]
    assert images[0].read_bytes() == images[1].read_bytes()
    assert "ink" in wuliart("adapters").stdout
    assert "embedded" in wuliart("info").stdout
    wrong = wuliart("generate", "a fox", "--adapter", "imk")
    assert wrong.returncode == 1
    assert wrong.stderr.count("\n") == 1 and "ink" in wrong.stderr
