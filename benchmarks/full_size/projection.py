"""Projects the time of an image on an RTX 4090 from its published limits; measures nothing.

`python -m benchmarks.full_size projection` prints the stages that docs/performance.md and
docs/decisions.md quote: bytes and operations of the memory plan, divided by the share of the card's
limits that the engine reached on an H200.
"""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from benchmarks.full_size.parts import BUDGET, IDLE
from benchmarks.full_size.random_model import full_demand
from inference_server.engine.memory_plan import MemoryPlan
from inference_server.loading.memory_budget import make_plan
from inference_server.weight_kind import WeightKind

PRODUCTS, ATTENTION = 55.7e12, 12.8e12
"""Floating-point operations of one step at 4,096 image tokens."""
DECODE_BYTES = 100e9
"""Bytes that the decode in tiles reads and writes: 25 ms were measured on a card of 4 TB/s."""
STEPS = 4


@dataclass(frozen=True)
class Card:
    """Published limits of a card."""

    name: str
    bf16: float
    """Dense operations per second."""
    fp8: float
    """Dense operations per second."""
    memory: float
    """Bytes per second."""
    link: float
    """Bytes per second from host memory, as published measurements have it."""
    reached: float
    """Share of the limits that the engine reaches: on Hopper 116 ms where they allow 97."""


RTX_4090 = Card("RTX 4090", 165e12, 330e12, 1e12, 25e9, 97 / 116)


def stages(card: Card, plan: MemoryPlan, kind: WeightKind) -> list[tuple[str, float, str]]:
    """Returns (stage, seconds, bound) of an image with a new prompt after an idle period."""
    d = plan.demand
    speed = card.fp8 if kind is WeightKind.FP8 else card.bf16
    compute = (PRODUCTS / speed + ATTENTION / card.bf16) / card.reached
    text = plan.streamed_text_layers * d.text_layer / card.link
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
    """Prints one table per kind of weights."""
    console = Console()
    for kind in WeightKind:
        plan = make_plan(full_demand(kind), BUDGET, IDLE)
        title = (
            f"PROJECTION: {RTX_4090.name}, {kind}, {plan.idle / 1e9:.1f} GB idle, "
            f"{plan.peak / 1e9:.1f} GB at most; blocks: {plan.resident_blocks} resident, "
            f"{plan.cached_blocks} cached, {plan.streamed_blocks - plan.cached_blocks} streamed"
        )
        table = Table("stage", "seconds", "bound by", title=title)
        rows = stages(RTX_4090, plan, kind)
        for stage, seconds, bound in rows:
            table.add_row(stage, f"{seconds:.2f}", bound)
        known = sum(seconds for stage, seconds, _ in rows if stage != "text encoder")
        total = known + rows[0][1]
        table.add_row("new prompt → JPEG", f"{total:.2f}", "expected: 2.8 to 3.3")
        table.add_row("known prompt → JPEG", f"{known:.2f}", "")
        console.print(table)


if __name__ == "__main__":
    main()
