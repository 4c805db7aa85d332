"""Tests of the judge's training command: whenever it is interrupted, a judge is left."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.quality.judge import accuracy, reading, train
from benchmarks.quality.judge.bank import Bank
from benchmarks.quality.judge.network import CELLS, EDGE
from benchmarks.quality.judge.samples import NONE, Labels
from training.data import concepts

CONCEPTS = 3


class Sampler:
    """Stands for the composition: images of noise with one subject in the middle."""

    calls = 0
    interrupted_at = 0

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __call__(self, count: int) -> tuple[torch.Tensor, Labels]:
        type(self).calls += 1
        if type(self).calls == self.interrupted_at:
            signal.raise_signal(signal.SIGTERM)
        cells = (count, CELLS, CELLS)
        there, edge, none = torch.zeros(cells), torch.full(cells, -1.0), torch.full(cells, NONE)
        concept = none.clone()
        there[:, 6, 6], edge[:, 6, 6], concept[:, 6, 6] = 1, 0.5, 1
        ground = torch.zeros(count, dtype=torch.long)
        labels = Labels(ground, ground, ground, there, edge, none, concept)
        return torch.rand(count, 3, EDGE, EDGE), labels


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Prepares a short run; yields the file of the weights."""
    out = tmp_path / "judge.safetensors"
    flags = ["--batch", "2", "--concepts", str(CONCEPTS), "--kinds", "2", "--tried", "16"]
    where = ["--device", "cpu", "--no-compile", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["train", "--seconds", "3", *flags, *where])
    monkeypatch.setattr(train, "render", lambda *_, **__: None)
    monkeypatch.setattr(train, "Sampler", Sampler)
    monkeypatch.setattr(Sampler, "calls", 0)
    handlers = {sent: signal.getsignal(sent) for sent in (signal.SIGTERM, signal.SIGALRM)}
    yield out
    for sent, handler in handlers.items():
        signal.signal(sent, handler)


def facts(out: Path) -> dict[str, Any]:
    """Loads the weights, which must fit, and returns the facts beside them."""
    reading.load([c.code for c in concepts.read()[:CONCEPTS]], torch.device("cpu"), out)
    found: dict[str, Any] = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    return found


def test_a_whole_run_saves_a_judge_and_its_accuracy(command: Path) -> None:
    train.main()
    found = facts(command)
    assert found["accuracy"]["setting"] >= 0 and found["images"] >= 2
    assert found["curve"][-1]["seconds"] < 4


def test_a_report_that_takes_too_long_ends_in_time_and_keeps_what_it_found(
    command: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def endless(*_: object) -> Iterator[dict[str, float]]:
        yield {"setting": 90.0}
        time.sleep(60)

    monkeypatch.setattr(accuracy, "measure", endless)
    monkeypatch.setattr(train, "TRIAL", 2.0)
    began = time.monotonic()
    train.main()
    assert time.monotonic() - began < 8
    assert facts(command)["accuracy"] == {"setting": 90.0}
    said = capsys.readouterr().out
    assert '{"setting": 90.0}' in said and "the judge is saved" in said


def test_an_interrupted_training_leaves_what_it_reached(
    command: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sampler, "interrupted_at", 5)
    with pytest.raises(SystemExit, match="interrupted"):
        train.main()
    assert facts(command)["steps"] >= 2


def test_weights_are_saved_all_the_while(command: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--bank", "0"])
    monkeypatch.setattr(Bank, "save_facts", lambda *_, **facts: seen.append("curve" in facts))
    train.main()
    assert seen.count(False) >= 2
