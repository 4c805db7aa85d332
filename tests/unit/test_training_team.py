"""The training loop, alone and in a team of processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from training import loop
from training.team import Team

ROOT = Path(__file__).resolve().parents[2]

AVERAGING = """
import json, torch
from training.team import Team
team = Team()
parts = [torch.full((2, 3), float(team.rank)), torch.arange(4.0) * (1 + team.rank)]
parts.append(parts[1].view(1, 1, 2, 2).expand(1, 3, 2, 2).contiguous(
    memory_format=torch.channels_last))
value = team.average(parts, 3.0 + team.rank)
team.seed(5)
print(json.dumps({"rank": team.rank, "size": team.size, "leads": team.leads, "value": value,
    "parts": [part.tolist() for part in parts], "noise": torch.rand(3).tolist()}))
"""

TRAINING = """
import json, time, torch
from torch import nn
from training import loop
from training.team import Team
team = Team()
torch.manual_seed(0)
model = nn.Linear(3, 2)
goal = torch.full((2, 3), float(1 + 2 * team.rank))
if team.leads:
    time.sleep(1.5)  # as if it still evaluated
curve = loop.run(
    model, tuple, lambda: {"error": (model.weight - goal).square().mean()},
    loop.Plan(4.0, 3e-2, 0.5, 100_000, team),
)
print(json.dumps({"rank": team.rank, "weight": model.weight.tolist(),
    "step": curve[-1]["step"], "seconds": curve[-1]["seconds"]}))
"""


def two(script: str) -> list[dict[str, object]]:
    """Runs a script in a team of two without a GPU; returns what each printed last."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    place |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    members = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            env=os.environ | place | {"RANK": str(rank)},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        printed = [member.communicate(timeout=120)[0] for member in members]
    finally:
        for member in members:
            member.kill()
    assert [member.returncode for member in members] == [0, 0]
    return [json.loads(text.splitlines()[-1]) for text in printed]


def test_a_run_that_was_started_alone_is_a_team_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    team = Team()
    tensor = torch.tensor([1.0, 2.0])
    assert (team.rank, team.size, team.leads) == (0, 1, True)
    assert team.average([tensor], 0.25) == 0.25 and tensor.tolist() == [1, 2]
    assert team.cores == len(os.sched_getaffinity(0))


def test_two_processes_average_exactly_and_draw_differently() -> None:
    first, second = two(AVERAGING)
    assert (first["rank"], second["rank"], first["size"], second["size"]) == (0, 1, 2, 2)
    assert (first["leads"], second["leads"]) == (True, False)
    assert first["value"] == second["value"] == 3.5
    mean = [0.0, 1.5, 3.0, 4.5]
    image = [[mean[:2], mean[2:]]] * 3
    assert first["parts"] == second["parts"] == [[[0.5] * 3] * 2, mean, [image]]
    assert first["noise"] != second["noise"]


def test_a_team_trains_one_model_on_all_its_data_for_the_whole_time() -> None:
    first, second = two(TRAINING)
    assert first["weight"] == second["weight"] and first["step"] == second["step"]
    # Between the goals of both, 1 and 3.
    assert torch.allclose(torch.tensor(first["weight"]), torch.tensor(2.0), atol=0.05)
    # A member that comes late costs the others no training time.
    assert float(str(first["seconds"])) == pytest.approx(4.0, abs=0.3)


def test_the_loop_lowers_a_loss_and_leaves_the_average() -> None:
    torch.manual_seed(0)
    model, target = nn.Linear(4, 4), torch.eye(4)
    seen = []

    def losses() -> dict[str, Tensor]:
        seen.append(model.weight.detach().clone())
        return {"error": (model.weight - target).square().mean()}

    before = float(losses()["error"].detach())
    began = time.monotonic()
    curve = loop.run(model, tuple, losses, loop.Plan(0.5, 1e-2, 0.3, 50, Team()))
    assert 0.5 <= time.monotonic() - began < 5
    assert float(losses()["error"].detach()) < before / 10
    assert curve[-1]["step"] == len(seen) - 3  # not the first, the warm-up, and the last
    assert [row["step"] for row in curve[:2]] == [50, 100]
    assert not torch.equal(seen[-1], seen[-2])  # the average, not the last weights


def test_a_loss_that_is_not_finite_stops_the_loop() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(FloatingPointError, match="learning rate"):
        loop.run(
            model,
            tuple,
            lambda: {"error": model.weight.sum() * float("nan")},
            loop.Plan(1.0, 1e-2, 0.3, 1, Team()),
        )
