"""Noise schedules: against stock diffusers, by family, written out, and chosen for a LoRA."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import FlowMatchEulerDiscreteScheduler

from inference_server.errors import ModelError
from inference_server.model.schedule import (
    FAMILIES,
    Schedule,
    ScheduleTable,
    is_for_few_steps,
    of_checkpoint,
    parse,
)
from inference_server.model.schedule_choice import LoraTraits, choose, recognise
from tests.support.few_step_loras import (
    LIGHTNING,
    LIGHTNING_8,
    PUBLISHED_SCHEDULER,
    TURBO,
    TURBO_2,
    write_few_step_lora,
)

TOKENS = 4096
LN3 = {"base_shift": math.log(3), "max_shift": math.log(3), "shift_terminal": None}
LN25 = {"base_shift": math.log(2.5), "max_shift": math.log(2.5), "shift_terminal": None}
LINEARS = {
    f"transformer_blocks.{block}.{name}": (64, 64)
    for block in range(2)
    for name in ("attn.to_q", "attn.to_add_out", "img_mlp.net.2", "img_mod.1", "txt_mod.1")
}


def stock_sigmas(config: dict[str, Any], steps: int) -> list[float]:
    """Sigmas as `QwenImagePipeline` requests them from its scheduler at 1024x1024."""
    scheduler = FlowMatchEulerDiscreteScheduler(**config)
    low, high = config["base_image_seq_len"], config["max_image_seq_len"]
    slope = (config["max_shift"] - config["base_shift"]) / (high - low)
    mu = config["base_shift"] + slope * (TOKENS - low)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
    return [float(s) for s in scheduler.sigmas]


FAMILY_CONFIGS = {
    "lightning": LN3,
    "lightning-8": LN3,
    "turbo": LN25,
    "turbo-2": LN25 | {"shift_terminal": 0.7155},
}


@pytest.mark.parametrize("name", FAMILIES)
def test_families_equal_stock_with_the_right_scheduler_config(name: str) -> None:
    config = {k: v for k, v in PUBLISHED_SCHEDULER.items() if k[0] != "_"} | FAMILY_CONFIGS[name]
    for count in FAMILIES[name].counts:
        if count > 1 or config["shift_terminal"] is None:  # diffusers divides by zero there
            expected = stock_sigmas(config, count)
            assert FAMILIES[name].sigmas(count) == pytest.approx(expected, abs=1e-6)


def test_families_in_published_numbers() -> None:
    published = {
        "lightning": (1, 0.9, 0.75, 0.5, 0),
        "turbo": (1, 0.882, 0.714, 0.455, 0),
        "turbo-2": (1, 0.7155, 0),
    }
    for name, levels in published.items():
        schedule = FAMILIES[name]
        assert schedule.sigmas(schedule.steps) == pytest.approx(levels, abs=5e-4)
    assert FAMILIES["lightning-8"].steps == 8
    assert FAMILIES["turbo-2"].counts == range(1, 3)


@pytest.mark.parametrize(
    "config",
    [PUBLISHED_SCHEDULER, PUBLISHED_SCHEDULER | LN3],
    ids=["published", "ln 3"],
)
@pytest.mark.parametrize("steps", [2, 3, 4])
def test_a_checkpoints_own_schedule_equals_stock(config: dict[str, Any], steps: int) -> None:
    plain = {k: v for k, v in config.items() if k[0] != "_"}
    ours = of_checkpoint(TOKENS, config).sigmas(steps)
    assert ours == pytest.approx(stock_sigmas(plain, steps), abs=1e-6)
    assert of_checkpoint(TOKENS, config).sigmas(1) == (1.0, 0.0)


def test_a_static_shift_and_the_published_config() -> None:
    assert of_checkpoint(TOKENS, {"shift": 3.0}).sigmas(4) == pytest.approx((1, 0.9, 0.75, 0.5, 0))
    assert not is_for_few_steps(PUBLISHED_SCHEDULER)
    assert is_for_few_steps(PUBLISHED_SCHEDULER | LN3)


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        ("shift=3", (1, 0.9, 0.75, 0.5, 0)),
        ("mu=1.0986122886681098", (1, 0.9, 0.75, 0.5, 0)),
        ("shift=2.5,terminal=.7155,steps=2", (1, 0.7155, 0)),
        ("mu=0.9162907318741551,steps=2,terminal=0.7155", (1, 0.7155, 0)),
        ("sigmas=1,.7155", (1, 0.7155, 0)),
        (" lightning ", (1, 0.9, 0.75, 0.5, 0)),
    ],
)
def test_a_schedule_can_be_written_out(text: str, levels: tuple[float, ...]) -> None:
    schedule = parse(text)
    assert schedule is not None
    assert schedule.sigmas(schedule.steps) == pytest.approx(levels, abs=1e-5)
    again = parse(str(schedule))
    assert again is not None
    assert again.sigmas(again.steps) == pytest.approx(levels, abs=1e-5)


@pytest.mark.parametrize(
    "text",
    [
        *("", "Lightning", "shift", "shift=", "shift=x", "shift=0", "shift=-1", "shift=inf"),
        *("shift=nan", "mu=99", "mu=1,shift=3", "shift=3,shift=3", "steps=4", "shift=3,steps=0"),
        *("shift=3,steps=9", "shift=3,steps=2.5", "shift=3,terminal=0", "shift=3,terminal=1"),
        *("sigmas=", "sigmas=.5,1", "sigmas=1,1", "sigmas=1,0", "sigmas=.9,.5", "sigmas=1,nan"),
        *("sigmas=1.0005,.5", "sigmas=1.0000001", "sigmas=1,-.5"),
        "sigmas=" + ",".join(str(1 - k / 9) for k in range(9)),
    ],
)
def test_a_bad_schedule_is_refused_with_the_choices(text: str) -> None:
    with pytest.raises(
        ValueError, match="choose lightning, lightning-8, turbo, turbo-2, check"
    ) as e:
        parse(text)
    assert "\n" not in str(e.value)


def test_explicit_levels_support_their_own_number_of_steps() -> None:
    assert Schedule(levels=(1.0, 0.7155), steps=2).counts == range(2, 3)


@pytest.mark.parametrize("schedule", [*FAMILIES.values(), Schedule(levels=(1.0, 0.5), steps=2)])
def test_a_table_shares_rows(schedule: Schedule) -> None:
    table = ScheduleTable.build(schedule)
    assert table.rows[0] == 1.0 and list(table.rows) == sorted(set(table.rows), reverse=True)
    assert set(table.sigmas) == set(schedule.counts)
    for steps, rows in table.row_of.items():
        assert [table.rows[row] for row in rows] == list(table.sigmas[steps][:-1])


# -- recognising a few-step LoRA -----------------------------------------------------------------


def write(folder: Path, name: str, *, lightning: bool, **metadata: str) -> Path:
    return write_few_step_lora(folder / name, LINEARS, lightning=lightning, **metadata)


@pytest.mark.parametrize(
    ("name", "lightning", "expected"),
    [
        (LIGHTNING, True, "lightning"),
        ("Qwen-Image-2512-Lightning-4steps-V1.0-fp32.safetensors", True, "lightning"),
        ("Qwen-Image-2512-Lightning-4steps.safetensors", True, "lightning"),
        (LIGHTNING_8, True, "lightning-8"),
        (TURBO, False, "turbo"),
        (TURBO_2, False, "turbo-2"),
        # Renamed: Lightning's layout is enough; another's needs the number of steps.
        ("fast.safetensors", True, "lightning"),
        ("fast-8-steps.safetensors", True, "lightning-8"),
        ("my_turbo_2step.safetensors", False, "turbo-2"),
        ("4Steps.safetensors", False, "turbo"),
    ],
)
def test_published_loras_are_recognised_over_the_published_config(
    tmp_path: Path, name: str, lightning: bool, expected: str
) -> None:
    chosen = choose(None, write(tmp_path, name, lightning=lightning), TOKENS, PUBLISHED_SCHEDULER)
    assert chosen.schedule is FAMILIES[expected]
    assert chosen.why and not chosen.warning


@pytest.mark.parametrize(
    ("name", "lightning"),
    [
        ("fast.safetensors", False),  # Wuli-art's layout: of two or four steps
        ("fast-8steps.safetensors", False),
        (LIGHTNING, False),  # the name says one family, the layout another
        (TURBO, True),
        ("Qwen-Image-Lightning-2steps.safetensors", True),
        ("Qwen-Image-Lightning-4steps-8steps.safetensors", True),
    ],
)
def test_a_lora_that_is_not_recognised_is_refused_over_the_published_config(
    tmp_path: Path, name: str, lightning: bool
) -> None:
    path = write(tmp_path, name, lightning=lightning)
    with pytest.raises(ModelError, match="--schedule: lightning, lightning-8, turbo") as caught:
        choose(None, path, TOKENS, PUBLISHED_SCHEDULER)
    assert name in str(caught.value) and "\n" not in str(caught.value)
    # An explicit schedule is used, and so is a scheduler config that was set for few steps.
    assert choose("shift=4", path, TOKENS, PUBLISHED_SCHEDULER).schedule.shift == 4
    own = choose(None, path, TOKENS, PUBLISHED_SCHEDULER | LN3)
    assert own.schedule.sigmas(4) == pytest.approx((1, 0.9, 0.75, 0.5, 0))


def test_a_lora_may_state_its_schedule(tmp_path: Path) -> None:
    path = write(tmp_path, "x.safetensors", lightning=False, **{"wuliart.schedule": "shift=3.5"})
    assert choose(None, path, TOKENS, PUBLISHED_SCHEDULER).schedule.shift == 3.5
    path = write(tmp_path, "y.safetensors", lightning=False, **{"wuliart.schedule": "nonsense"})
    with pytest.raises(ModelError, match=r"wuliart\.schedule"):
        choose(None, path, TOKENS, PUBLISHED_SCHEDULER)


def test_a_name_alone_needs_a_number_of_steps() -> None:
    assert recognise(LoraTraits("white-lightning-style.safetensors")) is None
    assert recognise(LoraTraits("Qwen-Image-Lightning.safetensors")) is None
    by_name = recognise(LoraTraits("Qwen-Image-Lightning-4steps.safetensors"))
    assert by_name is not None and by_name.schedule is FAMILIES["lightning"]


NEARLY_PUBLISHED = {
    "no terminal": PUBLISHED_SCHEDULER | {"shift_terminal": None},
    "diffusers' max_shift": PUBLISHED_SCHEDULER | {"max_shift": 1.15},
    "a few-step shift over the base's terminal": PUBLISHED_SCHEDULER
    | LN3
    | {"shift_terminal": 0.02},
    "a static shift of 1": {"use_dynamic_shifting": False, "shift": 1.0},
    "diffusers' defaults": {},
}


@pytest.mark.parametrize("config", NEARLY_PUBLISHED.values(), ids=NEARLY_PUBLISHED)
def test_inherited_noise_levels_are_refused_for_an_unknown_lora(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    path = write(tmp_path, "fast.safetensors", lightning=False)
    with pytest.raises(ModelError, match="--schedule: lightning, lightning-8, turbo"):
        choose(None, path, TOKENS, config)
    assert "--schedule" in choose("checkpoint", path, TOKENS, config).warning
    assert not choose("turbo-2", path, TOKENS, config).warning


def test_without_a_few_step_lora_the_checkpoints_own_is_used_with_a_warning() -> None:
    for given in (None, "checkpoint", str(of_checkpoint(TOKENS, PUBLISHED_SCHEDULER))):
        chosen = choose(given, None, TOKENS, PUBLISHED_SCHEDULER)
        assert chosen.schedule.sigmas(4) == pytest.approx((1, 0.767, 0.456, 0.02, 0), abs=1e-3)
        assert "--turbo-lora" in chosen.warning
    assert not choose("lightning", None, TOKENS, PUBLISHED_SCHEDULER).warning
    assert not choose("checkpoint", None, TOKENS, PUBLISHED_SCHEDULER | LN3).warning


def test_a_recognised_lora_at_other_noise_levels_is_warned_of(tmp_path: Path) -> None:
    path = write(tmp_path, LIGHTNING, lightning=True)
    for given in ("checkpoint", "turbo", "shift=2.9", "sigmas=1,.7155"):
        warning = choose(given, path, TOKENS, PUBLISHED_SCHEDULER).warning
        assert LIGHTNING in warning and "trained on: that is lightning (" in warning
    for given in ("lightning", "shift=3", "mu=1.0986", "shift=3,steps=3", "sigmas=1,.9,.75,.5"):
        assert not choose(given, path, TOKENS, PUBLISHED_SCHEDULER).warning


def test_the_written_form_of_a_schedule_is_the_same_schedule() -> None:
    exact = parse("mu=.916")
    assert exact is not None
    shown = parse(str(exact))
    assert shown is not None and shown != exact and shown.is_same(exact)
    written_out = parse("shift=3")
    assert written_out is not None and written_out.is_same(FAMILIES["lightning"])
    assert not written_out.is_same(FAMILIES["lightning-8"])
    assert not written_out.is_same(FAMILIES["turbo"])
