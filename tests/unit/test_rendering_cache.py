"""Rendered images on disk: made once, made again when anything changes, kept only when asked to."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

from training import rendering_cache, renderings
from training.data import concepts
from training.data.images import svg_name
from training.grounds import Kind
from training.rendering_cache import kept

CPU = torch.device("cpu")


def test_tensors_are_made_once_for_the_same_parts_and_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def make() -> dict[str, Tensor]:
        made.append(len(made))
        return {"x": torch.full((3,), made[-1])}

    def value(*parts: str) -> int:
        return int(kept(tmp_path, parts, make, CPU)["x"][0])

    assert value("a", "b") == value("a", "b") == 0
    assert value("ab", "") == 1, "borders between parts count"
    assert value("a", "b") == 0
    monkeypatch.setattr(rendering_cache, "_code", lambda: "another")
    assert value("a", "b") == 2


@pytest.mark.parametrize("keep", [False, True])
def test_images_are_kept_only_when_asked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: bool
) -> None:
    fox = next(concept for concept in concepts.read() if concept.english == "fox")
    with zipfile.ZipFile(tmp_path / "svg.zip", "w") as archive:
        archive.writestr(svg_name("fluent", fox.code), "<svg/>")
    made: list[str] = []

    def layers(*_: object) -> dict[str, Tensor]:
        made.append("layers")
        return {"backs": torch.zeros(1, 2, 2).int(), "fronts": torch.ones(1, 2, 2).int()}

    def subjects(*_: object) -> dict[str, Tensor]:
        made.append("subjects")
        return {"sprites": torch.zeros(1, 4).int(), "contacts": torch.zeros(1, 2)}

    monkeypatch.setattr(renderings, "_layers", layers)
    monkeypatch.setattr(renderings, "_subjects", subjects)
    for _ in range(2):
        rendered = renderings.render(
            tmp_path, "fluent", [fox], variants=[0], device=CPU, chosen=[Kind(colour=0)], keep=keep
        )
        assert rendered.images.fronts.sum() == 4
    assert made == ["layers", "subjects"] * (1 if keep else 2)
    assert (tmp_path / "rendered").exists() == keep
