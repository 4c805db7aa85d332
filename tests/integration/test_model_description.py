"""What GetServerInfo says of the embedded model's knowledge, from its file to a client."""

from __future__ import annotations

import pytest

from inference_server.service.backend import Backend
from inference_server.service.validation import ANY_STEPS, validate
from tests.support.harness import COUNTS, InProcessServer, name_model, running_server
from wuliart.v1.image_generation_pb2 import GenerateImageRequest
from wuliart_client import AsyncClient, ModelDescription


def serve_embedded(server: InProcessServer) -> None:
    """Makes the server describe the embedded model."""
    name_model(server, "embedded")
    parts = server.engine, server.store, server.scheduler
    server.holder.fill(Backend(*parts, embedded=True, counts=COUNTS))  # type: ignore[arg-type]


async def description(embedded: bool) -> ModelDescription | None:
    async with running_server() as server, AsyncClient(server.target) as client:
        name_model(server, "qwen-image")
        if embedded:
            serve_embedded(server)
        return (await client.info()).model.description


async def test_another_model_has_no_description() -> None:
    assert await description(embedded=False) is None


async def test_the_embedded_model_is_described_in_both_languages() -> None:
    found = await description(embedded=True)
    assert found is not None
    english, chinese = found.introductions
    assert (english.language, chinese.language) == ("en", "zh")
    assert len(english.example_prompts) == len(chinese.example_prompts) >= 40
    for introduction in found.introductions:
        # The words and the numbers are the same statement.
        counts = [n for n in (found.subjects, found.backgrounds, found.settings) if n]
        assert found.subjects in counts
        for count in counts:
            assert str(count) in introduction.summary
        prompts = introduction.example_prompts
        assert len(set(prompts)) == len(prompts)
        for prompt in prompts:
            validate(GenerateImageRequest(prompt=prompt), ANY_STEPS)


async def test_without_its_file_the_embedded_model_is_served_all_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    from inference_server.service import model_description

    monkeypatch.setattr(model_description, "DESCRIPTION", tmp_path / "none.json")
    model_description.embedded_description.cache_clear()
    try:
        assert await description(embedded=True) is None
    finally:
        model_description.embedded_description.cache_clear()
