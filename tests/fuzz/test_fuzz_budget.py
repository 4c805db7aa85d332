"""Runs a fixed number of hostile inputs through every target, the same in every run."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fuzz import campaign
from tests.fuzz.shares import SHARES, share
from tests.fuzz.targets import CORPUS, TARGETS

INPUTS = 100_000


def test_every_target_has_a_share() -> None:
    assert SHARES.keys() == TARGETS.keys()


@pytest.mark.timeout(900)
def test_no_input_makes_a_target_fail(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris has no build for this machine")

    def tried(target: str) -> campaign.Outcome:
        return campaign.run(
            target,
            share(target, INPUTS),
            seed=20261124,
            found=tmp_path / target,
            kept=CORPUS / target,
        )

    # The expensive targets first, so that both processors finish at about the same time.
    order = sorted(
        SHARES,
        key=("protocol", "directory", "single", "lora", "gguf", "request", "keys", "recipe").index,
    )
    with ThreadPoolExecutor(2) as pool:
        outcomes = dict(zip(order, pool.map(tried, order), strict=True))
    for target, outcome in outcomes.items():
        rate = outcome.inputs / outcome.seconds
        print(f"{target}: {outcome.inputs:,} inputs, {rate:,.0f} a second")
        assert not outcome.crash, f"{target}: {outcome.crash}"
        assert outcome.inputs >= share(target, INPUTS)
    total = sum(outcome.inputs for outcome in outcomes.values())
    print(f"all: {total:,} inputs, no crash")
    assert total >= INPUTS
