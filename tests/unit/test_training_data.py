"""Tests of the training data's table, captions, and packs, without network and renderer."""

from __future__ import annotations

import hashlib
import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from training.data import captions, concepts, fetch, images, render
from training.data.captions import COLOURS, caption, with_article
from training.data.concepts import Concept, TableError
from training.data.icons import IconError, IconSet

TABLE = concepts.read()
BY_NAME = {c.english: c for c in TABLE}


def test_the_table_has_about_five_hundred_concepts_of_every_group() -> None:
    assert 450 <= len(TABLE) <= 600
    groups = {c.group for c in TABLE}
    assert {"animals", "plants", "food", "places", "vehicles", "weather", "people"} <= groups


def test_names_are_unique_and_written_in_their_language() -> None:
    assert len({c.english.lower() for c in TABLE}) == len(TABLE)
    assert len({c.chinese for c in TABLE}) == len(TABLE)
    for c in TABLE:
        assert re.fullmatch(r"[A-Za-z][A-Za-z '-]*", c.english), c
        assert c.chinese == "DNA" or re.search(r"[\u4e00-\u9fff]", c.chinese), c
        assert len(c.english.split()) <= 6 and len(c.chinese) <= 8, c
        assert c.english.lower() not in {tag.lower() for tag in c.english_tags}, c


# One smiling face stands for all: faces differ in a mood, which is no subject. Hands, gestures and
# signs are parts or symbols, flags and letters are shapes to be read exactly, and people have the
# default yellow, because a skin tone is no other subject under the same word.
@pytest.mark.parametrize(
    "first, last",
    [
        (0x1F600, 0x1F609),  # faces, before the smiling face
        (0x1F60B, 0x1F64F),  # faces and gestures, after it
        (0x1F1E6, 0x1F1FF),  # letters of flags
        (0x1F3FB, 0x1F3FF),  # skin tones
        (0x1F9B0, 0x1F9B3),  # hair
        (0x1F446, 0x1F450),  # hands
        (0x1F46A, 0x1F46D),  # families and couples: several subjects
        (0x1F550, 0x1F567),  # clock faces
        (0x1F170, 0x1F19A),  # letters in squares
        (0x2648, 0x2653),  # zodiac
        (0x1F9D1, 0x1F9D2),  # a person or child without further words, unless with an object
    ],
)
def test_the_table_has_nothing_of_a_banned_block(first: int, last: int) -> None:
    codes = [c.code.removeprefix("1F9D1-200D-") for c in TABLE]
    assert not [c for c in codes for p in c.split("-") if first <= int(p, 16) <= last]


def test_people_were_appended_and_the_rows_before_them_keep_their_places() -> None:
    # Shipped weights index the rows: their codes, in this order, are frozen.
    before = "\n".join(c.code for c in TABLE[:543])
    assert hashlib.sha256(before.encode()).hexdigest()[:16] == "167756c88cafe08d"
    assert [c.group for c in TABLE].index("people") == 543
    assert {"man", "woman", "astronaut", "cook", "princess"} <= {c.english for c in TABLE[543:]}


def test_codes_spell_the_emoji_of_their_row() -> None:
    for c in TABLE:
        spelt = "".join(chr(int(point, 16)) for point in c.code.split("-"))
        assert spelt.replace("\ufe0f", "") == c.emoji.replace("\ufe0f", ""), c


def test_a_broken_table_lists_all_violations(tmp_path: Path) -> None:
    fox, cat = BY_NAME["fox"], BY_NAME["cat"]
    broken = [
        fox,
        replace(cat, english="Fox"),
        replace(BY_NAME["owl"], english_tags=("cat", "fox"), kind="two", icons={"noto": "owl"}),
    ]
    with pytest.raises(TableError) as caught:
        concepts.write(broken, tmp_path / "concepts.tsv")
    for part in ("'fox' occurs 2 times", "tag 'fox'", "kind 'two'", "icons"):
        assert part in str(caught.value)
    assert not (tmp_path / "concepts.tsv").exists()


def test_the_table_survives_writing_and_reading(tmp_path: Path) -> None:
    concepts.write(TABLE, tmp_path / "concepts.tsv")
    assert concepts.read(tmp_path / "concepts.tsv") == TABLE
    assert (tmp_path / "concepts.tsv").read_bytes() == concepts.TABLE.read_bytes()


@pytest.mark.parametrize(
    "name, kind, phrase",
    [
        ("fox", "one", "a fox"),
        ("owl", "one", "an owl"),
        ("onion", "one", "an onion"),
        ("hourglass", "one", "an hourglass"),
        ("unicorn", "one", "a unicorn"),
        ("umbrella", "one", "an umbrella"),
        ("SUV", "one", "an SUV"),
        ("UFO", "one", "a UFO"),
        ("grapes", "some", "grapes"),
        ("Statue of Liberty", "the", "the Statue of Liberty"),
    ],
)
def test_articles_go_by_sound(name: str, kind: str, phrase: str) -> None:
    assert with_article(name, kind) == phrase


def test_colours_are_many_apart_and_named_in_both_languages() -> None:
    assert len(COLOURS) >= 10
    for names in ([n for c in COLOURS for n in c.english], [n for c in COLOURS for n in c.chinese]):
        assert len(set(names)) == len(names)
    rgb = np.array([c.rgb for c in COLOURS], float)
    distances = np.linalg.norm(rgb[:, None] - rgb[None], axis=-1) + 1e9 * np.eye(len(rgb))
    assert distances.min() > 25


def _all_captions(concept: Concept, language: str) -> set[str]:
    rng = random.Random(7)
    blue = next(c for c in COLOURS if "blue" in c.english)
    return {caption(concept, blue, language, rng) for _ in range(600)}


def test_english_captions_are_the_ones_expected() -> None:
    made = _all_captions(BY_NAME["owl"], "en")
    assert "an owl on a blue background" in made
    assert "owl, royal blue background" in made
    # The shipped weights learned these words: they are data, not vocabulary of the product.
    assert "a picture of an owl on royal blue" in made
    assert len(made) >= 20
    assert {c for c in _all_captions(BY_NAME["rabbit"], "en") if "a bunny on" in c}
    assert "grapes on a blue background" in _all_captions(BY_NAME["grapes"], "en")


def test_chinese_captions_are_the_ones_expected() -> None:
    made = _all_captions(BY_NAME["fox"], "zh")
    assert {"蓝色背景上的狐狸", "画一只狐狸，背景是蓝色", "蓝色背景上有一只狐狸"} <= made
    assert not [c for c in _all_captions(BY_NAME["glass of milk"], "zh") if "一杯一杯" in c]


def test_no_caption_has_a_wrong_article_a_gap_or_a_leftover() -> None:
    for concept in TABLE:
        for language, colour, text in captions.examples(concept, 24, seed=3):
            assert not re.search(r"[{}]|\s\s|^\s|\s$", text), text
            assert not re.search(r"\b(a|an|the) (a|an|the)\b", text, re.I), text
            if language == "en":
                assert not re.search(r"\ba (?=[aeio])(?!one|eu|ewe)", text, re.I), text
                assert not re.search(r"\ban (?=[bcdfgjklmnpqrtvwyz])", text, re.I), text
                assert colour is None or any(n in text for n in colour.english), text
            else:
                assert not re.search(r"[a-z]{2}", text), text
                assert colour is None or any(n in text for n in colour.chinese), text


def test_captions_are_the_same_for_the_same_seed_and_differ_for_another() -> None:
    fox = BY_NAME["fox"]
    assert captions.examples(fox, 50, seed=1) == captions.examples(fox, 50, seed=1)
    assert captions.examples(fox, 50, seed=1) != captions.examples(fox, 50, seed=2)
    assert {language for language, _, _ in captions.examples(fox, 4, seed=1)} == {"en", "zh"}


def test_an_unknown_language_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'fr'"):
        caption(BY_NAME["fox"], None, "fr", random.Random(0))


def test_packs_keep_images_exactly_and_can_be_continued(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    first = rng.integers(0, 256, (16, 16, 4), np.uint8)
    first[..., 3] |= 1
    with render.Pack(tmp_path / "a.zip") as pack:
        pack.add("1F98A", first)
    with render.Pack(tmp_path / "a.zip") as pack:
        assert "1F98A" in pack and "1F408" not in pack
        pack.add("1F408", first[::-1].copy())
    with render.Pack(tmp_path / "a.zip", read_only=True) as pack:
        assert list(pack) == ["1F98A", "1F408"]
        np.testing.assert_array_equal(pack.read("1F98A"), first)
        np.testing.assert_array_equal(pack.read("1F408"), first[::-1])


def test_compose_lays_the_image_over_the_background() -> None:
    image = np.zeros((1, 3, 4), np.uint8)
    image[0, :, 0] = 200
    image[0, :, 3] = (0, 51, 255)
    out = render.compose(image, (0, 100, 0))
    np.testing.assert_array_equal(out[0], [[0, 100, 0], [40, 80, 0], [200, 0, 0]])


def _icon_set(folder: Path, icons: str) -> IconSet:
    (folder / "icons.json").write_text(icons)
    (folder / "chars.json").write_text('{"1f98a": "fox", "2602": "gone"}')
    return IconSet("noto", folder)


def test_icons_become_square_documents_and_aliases_are_followed(tmp_path: Path) -> None:
    icon_set = _icon_set(
        tmp_path,
        '{"width": 32, "height": 32, "icons": {"fox": {"body": "<path fill=\\"currentColor\\"/>",'
        ' "width": 20}}, "aliases": {"vixen": {"parent": "fox"},'
        ' "xof": {"parent": "fox", "hFlip": true}}}',
    )
    assert icon_set.icon_of("1F98A") == "fox"
    assert icon_set.icon_of("2602-FE0F") is None
    svg = icon_set.svg("vixen")
    assert 'viewBox="-6 0 32 32"' in svg
    assert "currentColor" not in svg
    with pytest.raises(IconError, match="mirrored"):
        icon_set.svg("xof")
    with pytest.raises(IconError, match="'dog'"):
        icon_set.svg("dog")


def test_a_tarball_with_other_bytes_is_deleted_and_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    package = fetch.PACKAGES[0]
    npm.write_text(f"#!/bin/sh\necho changed > {package.slug}.tgz\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{npm.parent}:/usr/bin:/bin")
    with pytest.raises(fetch.FetchError, match="not the pinned"):
        fetch.fetch_all(tmp_path)
    assert not list((tmp_path / "npm").iterdir())


def test_every_package_has_a_pinned_digest_and_a_licence() -> None:
    for package in fetch.PACKAGES:
        assert re.fullmatch(r"sha512-[A-Za-z0-9+/]{86}==", package.integrity)
        assert package.licence in {"MIT", "Apache-2.0", "MIT AND LicenseRef-WordNet-3.0"}
        assert package.name in fetch.licences()


def test_a_complete_pack_is_left_alone(tmp_path: Path) -> None:
    fox = BY_NAME["fox"]
    path = images.pack_path(tmp_path, "noto", 16)
    with render.Pack(path) as pack:
        pack.add(fox.code, np.full((16, 16, 4), 255, np.uint8))
    before, steps = path.read_bytes(), []
    assert (
        images.render_set([fox], "noto", 16, cache=tmp_path, advance=lambda: steps.append(1))
        == path
    )
    assert path.read_bytes() == before and steps == [1]
