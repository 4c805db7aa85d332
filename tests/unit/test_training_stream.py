"""What captions and noise say of an image, as numbers; and the images that are made of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from training import choices, naming, stream, trained
from training.choices import OPTIONS, choose
from training.data.captions import COLOURS
from training.data.prose import lexicon
from training.data.prose.description import Description, Subject
from training.data.prose.paints import PAINTS
from training.data.scenes import LAYOUTS, PLACES, SETTINGS, Layout
from training.grounds import VARIANTS, Kind, kinds
from training.network import TEXT_TOKENS, TOKENS
from training.stream import COLUMNS, Coder, Source, Stream
from training.text_encoder import HIDDEN
from training.tokenizer import TEMPLATE, TEMPLATE_TOKENS

ROOT = Path(__file__).resolve().parents[2]
SOURCE = Source(ROOT / trained.CHECKPOINT)
ENTRIES = lexicon.read()
CODER = Coder(ENTRIES)


def subject(number: int, **parts: object) -> Subject:
    return replace(Subject(ENTRIES[number].concept), **parts)


def coded(description: Description) -> dict[str, int]:
    return dict(zip(COLUMNS, CODER.row(description), strict=False))


def grounds(description: Description) -> list[Kind]:
    row = CODER.row(description)
    assert len(row) == len(COLUMNS) + OPTIONS
    return [kinds()[index] for index in row[len(COLUMNS) :]]


def test_the_parts_of_noise_decide_evenly_and_independently() -> None:
    torch.manual_seed(0)
    chosen = choose(torch.randn(8000, 8, TOKENS[1]))
    sizes = (OPTIONS, VARIANTS, PLACES)
    for column, size in zip(chosen, sizes, strict=True):
        counts = torch.bincount(column, minlength=size)
        assert len(counts) == size
        assert counts.min() > 0.85 * 8000 / size and counts.max() < 1.15 * 8000 / size
    for (one, a), (other, b) in combinations(list(zip(chosen, sizes, strict=True)), 2):
        together = torch.bincount(one * b + other, minlength=a * b)
        assert together.min() > 0.65 * 8000 / (a * b)


def test_the_order_of_tokens_decides_nothing() -> None:
    torch.manual_seed(0)
    noise = torch.randn(50, *TOKENS)
    shuffled = choices.shuffled(noise)
    assert not torch.equal(shuffled, noise)
    assert torch.equal(shuffled.sort(1).values, noise.sort(1).values)
    # Tokens stay whole.
    assert torch.allclose(shuffled.square().sum(2).sort(1).values, noise.square().sum(2).sort(1)[0])
    for before, after in zip(choose(noise), choose(shuffled), strict=True):
        assert torch.equal(before, after)


def test_a_row_names_the_subjects_and_their_paint() -> None:
    names = list(PAINTS)
    row = coded(Description((subject(7, paint="blue"), subject(3)), relation="above"))
    assert row == {
        **{"first": 7, "second": 3, "paint": names.index("blue"), "paint2": -1},
        "layout": LAYOUTS.index(Layout(2, relation="above")),
    }
    row = coded(Description((subject(5, count=2, paint="red"),)))
    assert (row["first"], row["second"]) == (5, 5)
    assert (row["paint"], row["paint2"]) == (names.index("red"),) * 2
    row = coded(Description(setting="sea"))
    assert LAYOUTS[row["layout"]].count == 0 and row["paint"] == row["paint2"] == -1


@pytest.mark.parametrize(
    ("description", "layout"),
    [
        (Description((subject(0),)), Layout(1)),
        (Description((subject(0, size="small"),), side="left"), Layout(1, "small", "left")),
        (Description((subject(0, size="large"),)), Layout(1, "large")),
        (Description((subject(0),), side="centre"), Layout(1, None, "centre")),
        (Description((subject(0, count=2),)), Layout(2)),
        (Description((subject(0, count=4),)), Layout(4)),
        (Description((subject(0), subject(1))), Layout(2)),
        (Description((subject(0), subject(1)), "right of"), Layout(2, relation="right of")),
        (Description(), Layout(0)),
    ],
)
def test_a_row_names_the_layout(description: Description, layout: Layout) -> None:
    assert LAYOUTS[coded(description)["layout"]] == layout


def test_a_row_names_the_ground_that_words_state() -> None:
    assert set(grounds(Description((subject(0),), ground=3))) == {Kind(colour=3)}
    stated = Description((subject(0),), setting="snow", light="night")
    assert set(grounds(stated)) == {Kind("snow", "night")}
    for name, entry in SETTINGS.items():
        (kind,) = set(grounds(Description(setting=name)))
        assert kind.setting == name
        assert kind.light == ("day" if "day" in entry.lights else next(iter(entry.lights)))


@pytest.mark.parametrize("light", ["day", "sunset", "night"])
def test_a_stated_light_is_seen_whatever_is_left_open(light: str) -> None:
    assert {kind.light for kind in grounds(Description(light=light))} == {light}
    for number in range(len(ENTRIES)):
        found = grounds(Description((subject(number),), light=light))
        assert {kind.light for kind in found} == {light}, ENTRIES[number].concept.english


def test_an_open_ground_is_natural_to_the_first_subject_or_plain() -> None:
    for number, entry in enumerate(ENTRIES):
        found = grounds(Description((subject(number), subject(0))))
        plain = [kind.colour for kind in found if kind.colour >= 0]
        assert len(set(plain)) == len(plain) == stream.PLAIN_OPTIONS
        assert set(plain) <= set(range(len(COLOURS)))
        scenes = {kind.setting for kind in found if kind.colour < 0}
        assert scenes and scenes <= set(entry.settings)
        assert entry.settings[0] in scenes
    assert len(set(grounds(Description()))) == OPTIONS


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer captions in a chunk; processes are forked and inherit it."""
    monkeypatch.setattr(stream.write_chunk, "__defaults__", (400,))


@pytest.fixture
def batches(few: None) -> Iterator[list[stream.Batch]]:
    made = Stream(SOURCE, 8, seed=1, device=torch.device("cpu"), workers=1)
    yield [made() for _ in range(60)]
    made.close()


def texts_of(ids: Tensor) -> list[str]:
    tokenizer = trained.load_tokenizer(SOURCE.tokenizer)
    suffix = len(tokenizer(TEMPLATE.split("{}")[1])["input_ids"])
    return [str(tokenizer.decode(row[TEMPLATE_TOKENS:-suffix])) for row in ids]


def names(number: int) -> tuple[str, ...]:
    entry = ENTRIES[number]
    return entry.english + entry.chinese + (entry.plural,)


def test_a_batch_has_captions_of_one_length_with_the_rows_that_describe_them(
    batches: list[stream.Batch],
) -> None:
    assert len({batch.ids.shape[1] for batch in batches}) > 5
    named, other, chinese, settings = [], [], [], []
    for ids, rows in batches:
        assert ids.dtype == rows.dtype == torch.long
        assert rows.shape == (8, len(COLUMNS) + OPTIONS)
        assert TEMPLATE_TOKENS < ids.shape[1] <= TEMPLATE_TOKENS + TEXT_TOKENS
        for text, row in zip(texts_of(ids), rows.tolist(), strict=True):
            chinese.append(any("一" <= letter <= "鿿" for letter in text))
            if LAYOUTS[row[2]].count:
                lower = text.lower()
                named.append(any(name.lower() in lower for name in names(row[0])))
                wrong = (row[0] + 100) % len(ENTRIES)
                other.append(any(name.lower() in lower for name in names(wrong)))
            if len(set(row[len(COLUMNS) :])) == 1:
                settings.append(kinds()[row[len(COLUMNS)]])
    assert np.mean(named) > 0.75  # the rest is mistyped or in plural
    assert np.mean(other) < 0.1
    assert 0.35 < np.mean(chinese) < 0.65
    assert len(set(settings)) > 20


def test_batches_differ_and_a_seed_repeats_its_captions(few: None) -> None:
    one = stream.write_chunk(SOURCE, 5)
    again, other = stream.write_chunk(SOURCE, 5), stream.write_chunk(SOURCE, 6)
    assert one.keys() == again.keys()
    for length, (ids, rows) in one.items():
        assert np.array_equal(ids, again[length][0]) and np.array_equal(rows, again[length][1])
    length = max(one, key=lambda n: len(one[n][0]))
    assert not np.array_equal(one[length][0][:5], other[length][0][:5])


def test_half_of_the_captions_have_the_trigger_in_their_language(few: None) -> None:
    source = replace(SOURCE, trigger=("pixel art", "像素画"))
    written = stream.write_chunk(source, 1)
    texts = [text for ids, _ in written.values() for text in texts_of(torch.from_numpy(ids))]
    english = [text for text in texts if text.endswith("pixel art")]
    chinese = [text for text in texts if text.endswith("像素画")]
    assert 0.4 < (len(english) + len(chinese)) / len(texts) < 0.6
    assert len(english) > 0.15 * len(texts) and len(chinese) > 0.15 * len(texts)


def test_only_the_first_concepts_are_subjects_where_few_are_wanted(few: None) -> None:
    written = stream.write_chunk(replace(SOURCE, concepts=3), 1)
    rows = np.concatenate([rows for _, rows in written.values()])
    assert set(rows[:, :2].flatten().tolist()) == {0, 1, 2}


def test_losses_of_naming_are_finite_where_nothing_is_named() -> None:
    torch.manual_seed(0)
    made = naming.Naming(trained.untrained(SOURCE.tokenizer).text, len(ENTRIES))
    rows = torch.tensor([CODER.row(Description()), CODER.row(Description(light="day"))])
    states = torch.randn(2, 5, HIDDEN, requires_grad=True)
    loss = made.loss(states, rows)
    loss.backward()
    assert loss.isfinite() and states.grad is not None and bool(states.grad.isfinite().all())
    for head in made.heads[3:4]:
        assert head.weight.grad is not None and bool(head.weight.grad.any())
    for parameter in made.heads.parameters():
        assert parameter.grad is None or bool(parameter.grad.isfinite().all())
