"""Tests of the clean measure's calibration."""

from __future__ import annotations

import json

from benchmarks.quality import calibration, clean
from training.grounds import Kind, kinds


def test_every_ground_in_every_light_is_measured_with_a_subject() -> None:
    shown = calibration.descriptions()
    found = [
        Kind(d.setting or "", d.light or "", -1 if d.ground is None else d.ground) for d in shown
    ]
    assert sorted(map(str, found)) == sorted(map(str, kinds()))
    assert len(found) >= 60 and all(len(d.subjects) == 1 for d in shown)
    assert shown == calibration.descriptions()
    assert len({calibration.named(d) for d in shown}) == len(shown)


def test_the_bars_are_above_all_that_was_measured() -> None:
    facts = json.loads(clean.BARS.read_text(encoding="utf-8"))
    bars = facts["bars"]
    every = [*bars["speckle"], *bars["worst_places"], bars["seams"]]
    assert len(every) == len(facts["largest"]) == len(facts["nearest"])
    assert all(bar > value for bar, value in zip(every, facts["largest"], strict=True))
    assert facts["images"] >= 100
