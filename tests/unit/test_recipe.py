"""A recipe survives its text and its image, whatever stands in a prompt or an adapter's name."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from inference_server.engine.jpeg import encode_image
from wuliart_client import read_recipe
from wuliart_contract.recipe import Recipe, RecipeAdapter, RecipeError

HASH = "0123456789abcdef" * 4
TEXTS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=60)
PROMPTS = st.text(
    st.one_of(st.characters(exclude_categories=("Cs", "Cc")), st.sampled_from('\n\t",:<>lora')),
    min_size=1,
    max_size=200,
)
HASHES = st.text("0123456789abcdef", min_size=64, max_size=64)
ADAPTERS = st.builds(RecipeAdapter, TEXTS, st.floats(-4, 4, width=32), HASHES)
RECIPES = st.builds(
    Recipe,
    PROMPTS,
    st.integers(0, 2**64 - 1),
    st.integers(1, 4),
    st.lists(ADAPTERS, max_size=4).map(tuple),
    TEXTS,
    st.none() | TEXTS,
    st.just("0.1.0"),
)


def image(comment: str) -> bytes:
    return encode_image(torch.zeros(32, 32, 3, dtype=torch.uint8), comment)


@given(RECIPES)
def test_what_is_written_is_read(recipe: Recipe) -> None:
    assert Recipe.parse(recipe.text()) == recipe


@given(RECIPES)
def test_it_lies_in_the_images_exif(recipe: Recipe) -> None:
    assert read_recipe(image(recipe.text())) == recipe


def test_the_text_is_what_image_browsers_of_the_field_expect() -> None:
    adapters = (
        RecipeAdapter("neon", 0.8, HASH),
        RecipeAdapter("old", 0.5, HASH),
        RecipeAdapter("ink", 1.0, HASH),
    )
    recipe = Recipe("a fox, <b>bold</b>", 7, 4, adapters, "embedded", "shift=3,steps=4", "0.1.0")
    text = recipe.text({"neon": "aa0123456789", "ink": "bb0123456789", "old": ""})
    assert Recipe.parse(text) == recipe
    assert text == (
        "a fox, <b>bold</b> <lora:neon:0.8> <lora:old:0.5> <lora:ink:1>\n"
        'Steps: 4, Sampler: Euler, Schedule type: "shift=3,steps=4", CFG scale: 1, '
        "Seed: 7, Size: 1024x1024, Model: embedded, "
        'Lora hashes: "neon: aa0123456789, ink: bb0123456789", '
        f'Adapters: "[[\\"neon\\", 0.8, \\"{HASH}\\"], [\\"old\\", 0.5, \\"{HASH}\\"], '
        f'[\\"ink\\", 1.0, \\"{HASH}\\"]]", '
        "Version: WuliArt 0.1.0"
    )
    # How AUTOMATIC1111 finds settings (modules/infotext_utils.py): an independent reading.
    pairs = re.findall(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', text.split("\n")[1])
    found = dict(pairs)
    assert (found["Steps"], found["Seed"], found["Size"]) == ("4", "7", "1024x1024")
    assert found["Lora hashes"] == '"neon: aa0123456789, ink: bb0123456789"'


def test_the_comment_is_utf_16_in_exif_and_the_pixels_stay() -> None:
    with_text, without = image("狐狸 🦊"), image("")
    exif = Image.open(io.BytesIO(with_text)).getexif().get_ifd(0x8769)
    assert exif[0x9286] == b"UNICODE\0" + "狐狸 🦊".encode("utf-16-be")
    assert not Image.open(io.BytesIO(without)).getexif()
    images = [Image.open(io.BytesIO(data)) for data in (with_text, without)]
    assert images[0].tobytes() == images[1].tobytes()
    assert images[0].quantization == images[1].quantization  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not a JPEG file"),
        (b"\xff\xd8 broken", "not a complete JPEG file"),
        (image(""), "no recipe"),
        (image("a fox\nSteps: 20, Sampler: DPM++ 2M, Seed: 1, Version: v1.9.0"), "not written"),
        (image("no settings at all"), "not written"),
        (image('a fox\nSteps: x, Seed: 1, Adapters: "[]", Version: WuliArt 1'), "damaged"),
        (image('a fox\nSteps: 4, Seed: 1, Adapters: "[[1]]", Version: WuliArt 1'), "damaged"),
    ],
)
def test_a_image_without_a_recipe_says_why(data: bytes, why: str) -> None:
    with pytest.raises(RecipeError, match=why):
        read_recipe(data)


@given(st.binary(max_size=300))
def test_hostile_bytes_are_only_refused(data: bytes) -> None:
    for hostile in (data, image("x")[:40] + data, image(data.decode("latin-1"))):
        with pytest.raises(RecipeError):
            read_recipe(hostile)


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_recipe(tmp_path / "none.jpg")


def test_images_of_earlier_versions_are_read() -> None:
    """Their adapters are called Styles. The first ones do not say whose noise levels they have."""
    adapters = f'[[\\"neon\\", 0.8, \\"{HASH}\\"]]'
    for schedule in (None, "lightning"):
        text = (
            "a fox <lora:neon:0.8>\nSteps: 4, Sampler: Euler, "
            f"{f'Schedule type: {schedule}, ' if schedule else ''}CFG scale: 1, Seed: 7, "
            f'Size: 1024x1024, Model: embedded, Styles: "{adapters}", Version: WuliArt 0.1.0'
        )
        neon = RecipeAdapter("neon", 0.8, HASH)
        recipe = Recipe("a fox", 7, 4, (neon,), "embedded", schedule, "0.1.0")
        assert Recipe.parse(text) == read_recipe(image(text)) == recipe
