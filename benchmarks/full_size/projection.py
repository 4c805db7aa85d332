"""What the memory plan and the physics give on a card that is not at hand: a projection, on paper.

`python -m benchmarks.full_size.projection`: stage by stage for an RTX 4090 within the mission's
memory. It knows the card's published limits and how much of such limits the engine reached
elsewhere; it measures nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from benchmarks.full_size.__main__ import BUDGET, IDLE
from benchmarks.full_size.random_model import full_demand
from inference_server.engine.memory_plan import MemoryPlan
from inference_server.loading.memory_plan import make_plan
from inference_server.weight_kind import WeightKind

PRODUCTS, ATTENTION = 55.7e12, 12.8e12
"""Operations of one step at 4,096 image tokens (the mission's figures)."""
DECODE_BYTES = 100e9
"""Read and written by the decode in tiles: 25 ms were measured on a card of 4 TB/s."""
STEPS = 4


@dataclass(frozen=True)
class Card:
    """Published limits of a card."""

    name: str
    bf16: float
    """Dense operations a second."""
    fp8: float
    memory: float
    """Bytes a second."""
    link: float
    """Bytes a second from host memory, as others measured it."""
    reached: float
    """Share of the limits that the engine reaches: 97 of 116 ms were measured on Hopper."""


RTX_4090 = Card("RTX 4090", 165e12, 330e12, 1e12, 25e9, 97 / 116)


def stages(card: Card, plan: MemoryPlan, kind: WeightKind) -> list[tuple[str, float, str]]:
    """(stage, seconds, what bounds it) of an image with a new prompt after an idle moment."""
    d = plan.demand
    speed = card.fp8 if kind is WeightKind.FP8 else card.bf16
    compute = (PRODUCTS / speed + ATTENTION / card.bf16) / card.reached
    text = 0.0 if plan.text_resident else d.text_layers * d.text_layer / card.link
    found = [("text encoder", text, "host link")]
    for step in range(1, STEPS + 1):
        blocks = plan.streamed_blocks - (plan.cached_blocks if step > 1 else 0)
        copied = blocks * d.block / card.link
        bound = "host link" if copied > compute else "compute"
        found.append((f"step {step}", max(copied, compute), bound))
    found.append(("decode", DECODE_BYTES / card.memory / card.reached, "memory"))
    found.append(("JPEG", 0.02, "processor"))
    return found


def main() -> None:
    """Prints a table for each kind of weights."""
    console = Console()
    for kind in WeightKind:
        plan = make_plan(full_demand(kind), BUDGET, IDLE)
        title = (
            f"PROJECTION: {RTX_4090.name}, {kind}, {plan.idle / 1e9:.1f} GB idle, "
            f"{plan.peak / 1e9:.1f} GB at most; blocks: {plan.resident_blocks} resident, "
            f"{plan.cached_blocks} staying, {plan.streamed_blocks - plan.cached_blocks} streamed"
        )
        table = Table("stage", "seconds", "bound by", title=title)
        rows = stages(RTX_4090, plan, kind)
        for stage, seconds, bound in rows:
            table.add_row(stage, f"{seconds:.2f}", bound)
        known = sum(seconds for stage, seconds, _ in rows if stage != "text encoder")
        total = known + rows[0][1]
        table.add_row("new prompt → JPEG", f"{total:.2f}", "the mission says 2.8 to 3.3")
        table.add_row("known prompt → JPEG", f"{known:.2f}", "")
        console.print(table)


if __name__ == "__main__":
    main()
