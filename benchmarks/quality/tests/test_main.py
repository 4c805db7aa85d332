"""Tests of the benchmark as a whole, with images that are made up."""

from __future__ import annotations

import argparse
import functools
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.quality import __main__ as benchmark
from benchmarks.quality import vae
from benchmarks.quality.image_generator import STORED_EDGE, Generated, ImageSpec
from benchmarks.quality.judge import reading
from training.data.prose.description import Description
from training.styles import PLAIN, Look

EDGE = STORED_EDGE


def _right(seed: int) -> Tensor:
    """An image that depends on the seed."""
    colour = torch.rand(3, generator=torch.Generator().manual_seed(seed))
    line = torch.linspace(0.5, 1, EDGE)[None, None, :].expand(3, EDGE, EDGE)
    return (colour[:, None, None] * line * 255).to(torch.uint8)


class Truth:
    """Stands for the composed images."""

    key = "k"

    def __init__(self, *args: object) -> None:
        pass

    def image(self, shown: Description, seed: int, look: Look = PLAIN) -> Tensor:
        return _right(seed)


class Generator:
    """Stands for the engine: Chinese prompts give images of another seed."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def key(self, variant: str, style: str = "") -> str:
        return "k"

    def adapter_file(self, style: str) -> Path:
        return Path("missing")

    def generate(self, spec: ImageSpec) -> Generated:
        right = _right(spec.seed).float() * (1 - 0.02 * (6 - spec.steps))
        return Generated((right if spec.text.isascii() else right.flip(0)).to(torch.uint8), 0.0)


def test_without_a_judge_all_else_is_measured_and_the_promises_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    untrained = functools.partial(reading.load, path=tmp_path / "judge.safetensors")
    monkeypatch.setattr(reading, "load", untrained)
    monkeypatch.setattr(benchmark, "ImageGenerator", Generator)
    monkeypatch.setattr(benchmark, "Truth", Truth)
    monkeypatch.setattr(vae, "measure", lambda *_: [30.0])
    monkeypatch.setattr(benchmark, "collect_svgs", lambda *_: None)
    files = {"turbo": tmp_path / "t", "model": tmp_path, "loras": tmp_path, "fresh": True}
    out = {"out": tmp_path / "q.json", "sheet": tmp_path / "q.png"}
    counts = {"each": 4, "table_prompts": 6, "adapter_prompts": 2}
    chosen = argparse.Namespace(device="cpu", **files, **out, **counts)

    assert not benchmark.measure(chosen)

    said = capsys.readouterr()
    assert len([line for line in said.err.splitlines() if line.startswith("No judge: ")]) == 1
    facts = json.loads(out["out"].read_text(encoding="utf-8"))
    assert facts["judged"] is False
    figures = {figure["name"]: figure for figure in facts["figures"]}
    assert {"clean", "seeds differ visibly", "VAE keeps a scene"} <= set(figures)
    assert "distance in 4 steps against 3" in figures
    assert not any("recognised" in name for name in figures)
    # The made-up Chinese images are far from right.
    assert figures["distance, Chinese against English"]["measured"] > 1.5
    assert not figures["distance, Chinese against English"]["holds"]
