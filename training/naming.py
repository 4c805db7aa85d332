"""Trains the text encoder alone to say what a caption describes: `python -m training.naming`.

A caption costs the text encoder a hundredth of what its images cost the transformer, so the many
words that mean the same are learned here, and the base starts from states in which subject, layout,
colour and ground can be read. The heads that read them are an auxiliary loss of the base, too.
"""

from __future__ import annotations

import argparse
import json

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Qwen2_5_VLForConditionalGeneration

from training import loop, options, trained
from training.data.prose.paints import PAINTS
from training.data.scenes import LAYOUTS
from training.grounds import kinds
from training.resources import Resources
from training.stream import COLUMNS
from training.text_encoder import HIDDEN, encode

PARTS = ("first", "second", "layout", "paint", "ground")
"""What is read off a caption, in the order of `Naming.heads`."""

TRIALS = 20
"""Batches that are read after training."""
TRIED_AT_ONCE = 256
"""Captions in each."""


class Naming(nn.Module):
    """A text encoder, and heads that read from its last state what an image shows.

    Args:
        text: The text encoder; its vision tower is left alone.
        concepts: Number of subjects.
    """

    def __init__(self, text: Qwen2_5_VLForConditionalGeneration, concepts: int) -> None:
        super().__init__()
        self.text = text.requires_grad_(True)
        self.text.model.visual.requires_grad_(False)
        sizes = (concepts, concepts, len(LAYOUTS), len(PAINTS) + 1, len(kinds()))
        self.heads = nn.ModuleList(nn.Linear(HIDDEN, size) for size in sizes)

    def read(self, states: Tensor) -> list[Tensor]:
        """Returns the logits of PARTS [B, classes] for encoded captions [B, tokens, HIDDEN].

        Only the last token has seen the whole caption.
        """
        return [head(states[:, -1]).float() for head in self.heads]

    def loss(self, states: Tensor, rows: Tensor) -> Tensor:
        """Returns the sum of the cross entropies.

        Args:
            states: Encoded captions [B, tokens, HIDDEN].
            rows: What they describe, as `stream.Coder.row`.
        """
        losses = [
            # A batch may have nothing of a part: its mean is then 0 / 0.
            F.cross_entropy(logits, goal, label_smoothing=0.05).nan_to_num()
            for logits, goal in zip(self.read(states), goals(rows), strict=True)
        ]
        return torch.stack(losses).sum()


def goals(rows: Tensor) -> list[Tensor]:
    """Returns the right classes of PARTS [B]; -100 where the caption says nothing of them.

    Subjects do not count where there are none, and a ground not where several are possible.
    """
    first, second, layout, paint = rows[:, :4].unbind(1)
    grounds = rows[:, len(COLUMNS) :]
    some = layout != 0
    stated = (grounds == grounds[:, :1]).all(1)
    return [
        torch.where(some, first, -100),
        torch.where(some, second, -100),
        layout,
        paint + 1,
        torch.where(stated, grounds[:, 0], -100),
    ]


@torch.no_grad()
def shares(model: Naming, batches: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Returns the share of captions of which each part is read right."""
    right, counted = [0] * len(PARTS), [0] * len(PARTS)
    for ids, rows in batches:
        logits = model.read(encode(model.text, ids))
        for part, (own, goal) in enumerate(zip(logits, goals(rows), strict=True)):
            says = goal >= 0
            right[part] += int((own.argmax(1) == goal)[says].sum())
            counted[part] += int(says.sum())
    return {
        name: round(hits / max(1, count), 4)
        for name, hits, count in zip(PARTS, right, counted, strict=True)
    }


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this run's own arguments."""
    add = parser.add_argument
    add("--naming-seconds", type=float, default=60.0)
    add("--naming-batch", type=int, default=1024, help="captions in a step, on each GPU")
    add("--naming-rate", type=float, default=2e-3)
    add("--naming-seed", type=int, default=4)


def train(resources: Resources, chosen: argparse.Namespace) -> None:
    """Trains a new text encoder for a fixed time, then saves it with an untrained transformer."""
    team = resources.team
    torch.manual_seed(chosen.naming_seed)
    resources.base = base = trained.untrained(chosen.base)
    model = Naming(base.text, len(resources.concepts)).to(resources.device).train()
    team.seed(chosen.naming_seed)
    stream = resources.stream(chosen.naming_batch, chosen.naming_seed)

    def losses(ids: Tensor, rows: Tensor) -> dict[str, Tensor]:
        return {"naming": model.loss(encode(model.text, ids), rows)}

    plan = loop.Plan(
        chosen.naming_seconds, chosen.naming_rate, 0.5, chosen.report, team=team, until=chosen.until
    )
    curve = loop.run(model, stream, losses, plan)
    stream.close()
    model.eval()
    trials = resources.stream(TRIED_AT_ONCE, chosen.naming_seed + 1)
    scores = shares(model, [trials() for _ in range(TRIALS)])
    trials.close()
    if not team.leads:
        return
    print("read right", scores, flush=True)
    trained.save(base, resources.out / "base")
    (resources.out / "naming.json").write_text(json.dumps({"scores": scores, "curve": curve}))


if __name__ == "__main__":
    options.run(__doc__, (arguments, train))
