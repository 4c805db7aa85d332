"""Fuzz target `recipe`: reads the recipe of an untrusted image file.

Any file, and any text in one, must lead to a `RecipeError` whose reason can be shown, or to a
recipe that is the same when written and read again, and that a request accepts.
"""

from __future__ import annotations

from wuliart_client import read_recipe
from wuliart_client._requests import AdapterWeight, build_generate_request
from wuliart_contract.recipe import Recipe, RecipeAdapter, RecipeError

HASH = "0123456789abcdef" * 4
PIXELS = b"\xff\xc0\0\x0b\x08\0\1\0\1\1\1\x11\0\xff\xda\0\2"
"""Start of a frame of one pixel and of its scan."""
MAX_REASON_CHARACTERS = 300


def run(data: bytes) -> None:
    """Reads the bytes as a file, as the text of a good file, and as the text itself."""
    _read(data)
    _read(jpeg(data))
    try:
        check(Recipe.parse(data.decode("utf-8", "replace")))
    except RecipeError as error:
        _check_reason(error)


def jpeg(comment: bytes, order: str = ">", before: bytes = b"") -> bytes:
    """Returns a file of one pixel, without its data, whose EXIF holds the comment unchanged.

    Args:
        comment: content of UserComment behind the name of its encoding.
        order: `struct`'s sign of the byte order.
        before: segments in front of EXIF's.
    """
    pack = {">": "big", "<": "little"}[order]

    def number(value: int, size: int) -> bytes:
        return value.to_bytes(size, pack)  # type: ignore[arg-type]

    def folder(tag: int, kind: int, count: int, value: int) -> bytes:
        entry = number(tag, 2) + number(kind, 2) + number(count, 4) + number(value, 4)
        return number(1, 2) + entry + number(0, 4)

    text = b"UNICODE\0" + comment
    head = (b"MM" if order == ">" else b"II") + number(42, 2) + number(8, 4)
    exif = head + folder(0x8769, 4, 1, 26) + folder(0x9286, 7, len(text), 44) + text
    content = b"Exif\0\0" + exif
    segment = b"\xff\xe1" + (len(content) + 2).to_bytes(2, "big") + content
    return b"\xff\xd8" + before + segment + PIXELS


def _read(data: bytes) -> None:
    try:
        check(read_recipe(data))
    except RecipeError as error:
        _check_reason(error)


def check(recipe: Recipe) -> None:
    """Checks a recipe that was read."""
    assert Recipe.parse(recipe.text()) == recipe
    adapters = [AdapterWeight(adapter.name, adapter.weight) for adapter in recipe.adapters]
    build_generate_request(recipe.prompt, recipe.seed, recipe.steps, adapters, False, True)


def _check_reason(error: RecipeError) -> None:
    reason = str(error)
    assert reason.isprintable(), ascii(reason)
    assert 0 < len(reason) <= MAX_REASON_CHARACTERS


def seeds() -> dict[str, bytes]:
    """Returns files and texts, good ones and near misses."""
    adapters = (RecipeAdapter('a "b", c: d\n', -0.5, HASH), RecipeAdapter("一", 2.0, HASH))
    recipe = Recipe(
        'a fox, "red": 1\nand more', 2**64 - 1, 4, adapters, 'm "1", n', "shift=3,steps=4", "0.1.0"
    )
    text = Recipe("x", 0, 1, (), "embedded", "turbo", "0.1.0").text()
    return {
        "text": recipe.text().encode(),
        "plain": text.encode(),
        "big": jpeg(recipe.text().encode("utf-16-be")),
        "little": jpeg(text.encode("utf-16-be"), "<"),
        "behind": jpeg(text.encode("utf-16-be"), before=b"\xff\xe0\0\4ab\xff\xff\1\xff\xe1\0\3x"),
        "other": b"a fox\nSteps: 20, Sampler: DPM++ 2M, Seed: 1, Version: v1.9.0",
        "deep": b'a\nSteps: 1, Seed: 1, Model: m, Adapters: "[[[[[[", Version: WuliArt 1',
        "large": b'a\nSteps: 1, Seed: 99999999999999999999, Adapters: "[]", Version: WuliArt 1',
        "weight": b'a\nSteps: 1, Adapters: "[[\\"a\\", 1e999, \\"\\"]]", Version: WuliArt 1',
        "half": b'a\nSteps: 1, Seed: 1, Model: "\\ud800", Adapters: "[]", Version: WuliArt 1',
    }
