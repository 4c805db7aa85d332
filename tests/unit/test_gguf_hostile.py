"""GGUF files that are damaged, hostile, or of other models: each is refused with one line."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from inference_server.errors import ModelError
from inference_server.model.weights.gguf_values import MAX_ENTRIES, MAX_HEADER_BYTES
from inference_server.model.weights.tensor_reader import open_tensors
from tests.support.gguf_files import encode, random_tensor, text, write_gguf

GOOD = encode(
    [("general.architecture", 8, text("qwen_image"))],
    [("a", [256, 2], 12, 0), ("b", [4], 0, 288)],
    bytes(288 + 16),
)
U32, TEXT, ARRAY = 4, 8, 9
HUGE = struct.pack("<Q", 1 << 62)
MOST_MESSAGE = 700


def refused(path: Path) -> str:
    with pytest.raises(ModelError) as raised:
        open_tensors(path.parent, path)
    message = str(raised.value)
    assert str(path) in message
    assert message.isprintable() and len(message) - len(str(path)) <= MOST_MESSAGE
    return message.replace(str(path), "x.gguf")


def tensors(*infos: tuple[str, list[int], int, int], data: int = 512) -> bytes:
    return encode([], list(infos), bytes(data))


def fields(*entries: tuple[str, int, bytes]) -> bytes:
    return encode(list(entries), [])


def test_the_file_that_others_are_made_from_is_good(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(GOOD)
    file = open_tensors(tmp_path, tmp_path / "x.gguf")
    assert {name: file.shape(name) for name in file.names} == {"a": (2, 256), "b": (4,)}
    file.close()


def test_every_truncated_file_is_damaged(tmp_path: Path) -> None:
    for size in range(len(GOOD)):
        (tmp_path / "x.gguf").write_bytes(GOOD[:size])
        assert refused(tmp_path / "x.gguf").startswith("x.gguf is damaged ("), size


OTHER_FILES: dict[str, tuple[bytes, str]] = {
    "flux": (
        fields(("general.architecture", TEXT, text("flux"))),
        "its general.architecture is 'flux', another model",
    ),
    "wan": (
        fields(("general.architecture", TEXT, text("wan"))),
        "whose files say 'qwen_image'",
    ),
    "a later Qwen-Image": (
        fields(("general.architecture", TEXT, text("qwen_image21"))),
        "its general.architecture is 'qwen_image21'",
    ),
    "control characters": (
        fields(("general.architecture", TEXT, text("\x1b[2J\u202e\n"))),
        r"'\x1b[2J\u202e\n'",
    ),
    "version 1": (encode([], [], version=1), "version 1 of GGUF, and this server reads"),
    "version 4": (encode([], [], version=4), "version 4 of GGUF, and this server reads"),
    "a part": (
        fields(("split.no", 2, struct.pack("<H", 1)), ("split.count", 2, struct.pack("<H", 3))),
        "it is part 2 of 3. Join them with `llama-gguf-split --merge",
    ),
    "IQ4_XS": (
        tensors(("a", [256], 23, 0), ("b", [256], 0, 256)),
        "1 of its 2 tensors, such as 'a', are of type IQ4_XS. This server reads F32, F16, Q4_0",
    ),
    "ternary and unknown": (
        tensors(("a", [256], 34, 0), ("b", [256], 999, 256)),
        "of type TQ1_0, number 999",
    ),
    "all other types": (
        tensors(*((f"t{n}", [256], n, 0) for n in range(15, 42) if n != 30)),
        "and more. This server reads",
    ),
}


@pytest.mark.parametrize("name", OTHER_FILES)
def test_what_is_not_read_is_refused_by_name(name: str, tmp_path: Path) -> None:
    data, expected = OTHER_FILES[name]
    (tmp_path / "x.gguf").write_bytes(data)
    message = refused(tmp_path / "x.gguf")
    assert message.startswith("cannot use x.gguf: ")
    assert expected in message


def test_a_big_endian_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    write_gguf(path, {"a": random_tensor("F32", (2, 256))}, big_endian=True)
    assert "its byte order is big-endian. Convert it with `gguf-convert-endian" in refused(path)


DAMAGED: dict[str, tuple[bytes, str]] = {
    "another format": (b"PK\3\4" + bytes(100), "it does not begin with GGUF"),
    "many tensors": (encode([], [], counts=(1 << 63, 0)), "it announces 9,223,372"),
    "many fields": (encode([], [], counts=(0, MAX_ENTRIES + 1)), "65,537 fields of metadata"),
    "a long name": (encode([], [], HUGE, counts=(1, 0), alignment=1), "a name of 4,611,686"),
    "a name that is no text": (
        encode([], [], struct.pack("<Q", 2) + b"\xff\xff", counts=(1, 0), alignment=1),
        "a name that is not UTF-8",
    ),
    "a long text": (fields(("x", TEXT, HUGE)), "its header has more than 16,777,216 bytes"),
    "a long array": (fields(("x", ARRAY, struct.pack("<I", U32) + HUGE)), "more than 16,777,216"),
    "a long array of texts": (fields(("x", ARRAY, struct.pack("<I", TEXT) + HUGE)), "it ends"),
    "nested arrays": (
        fields(("x", ARRAY, struct.pack("<IQ", ARRAY, 1) * 50)),
        "it holds an array of arrays",
    ),
    "an unknown type": (fields(("x", 13, bytes(8))), "a value of type 13"),
    "a field twice": (fields(("x", 0, b"\1"), ("x", 0, b"\2")), "holds the field 'x' twice"),
    "alignment 0": (fields(("general.alignment", U32, bytes(4))), "its alignment is 0"),
    "alignment 48": (fields(("general.alignment", U32, b"\x30\0\0\0")), "its alignment is 48"),
    "a negative alignment": (fields(("general.alignment", 5, b"\xff" * 4)), "its alignment is -1"),
    "a tensor twice": (tensors(("a", [4], 0, 0), ("a", [4], 0, 32)), "the tensor 'a' twice"),
    "dimensions": (tensors(("a", [1] * 9, 0, 0)), "'a' has 9 dimensions"),
    "no elements": (tensors(("a", [4, 0], 0, 0)), "'a' is [0, 4] of F32"),
    "half a block": (tensors(("a", [48, 2], 8, 0)), "'a' is [2, 48] of Q8_0, whose rows divide"),
    "a scalar of blocks": (tensors(("a", [], 12, 0)), "'a' is [] of Q4_K"),
    "an odd offset": (tensors(("a", [4], 0, 8)), "the data of 'a' does not lie on 32 bytes"),
    "an overlap": (tensors(("a", [64], 0, 0), ("b", [4], 0, 32)), "'b' overlaps another tensor"),
    "sizes that overflow": (
        tensors(("a", [1 << 63, 1 << 63, 1 << 63, 1 << 63], 0, 0)),
        " by its header",
    ),
    "an offset that overflows": (tensors(("a", [4], 0, (1 << 64) - 32)), " by its header"),
    "another true shape": (
        encode(
            [("comfy.gguf.orig_shape.a", ARRAY, struct.pack("<IQ2i", 5, 2, 3, 2))],
            [("a", [4], 0, 0)],
            bytes(16),
        ),
        "'a' is [4], and [3, 2] by its true shape",
    ),
    "a negative true shape": (
        encode(
            [("comfy.gguf.orig_shape.a", ARRAY, struct.pack("<IQ2i", 5, 2, -2, -2))],
            [("a", [4], 0, 0)],
            bytes(16),
        ),
        "'a' is [4], and [-2, -2] by its true shape",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    data, expected = DAMAGED[name]
    (tmp_path / "x.gguf").write_bytes(data)
    message = refused(tmp_path / "x.gguf")
    assert message.startswith("x.gguf is damaged (") and message.endswith("Download it again.")
    assert expected in message


def test_a_long_name_is_shortened(tmp_path: Path) -> None:
    name = "\u202e" * 300
    (tmp_path / "x.gguf").write_bytes(encode([], [(name, [32], 8, 0)], b"\xff" * 34))
    file = open_tensors(tmp_path, tmp_path / "x.gguf")
    with pytest.raises(ModelError) as raised:
        file.read(name)
    file.close()
    assert "holds a scale" in str(raised.value)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) - len(str(tmp_path)) <= MOST_MESSAGE


def test_texts_without_end_stop_at_the_limit(tmp_path: Path) -> None:
    array = struct.pack("<IQ", TEXT, 1 << 40) + bytes(MAX_HEADER_BYTES)
    (tmp_path / "x.gguf").write_bytes(fields(("x", ARRAY, array)))
    assert "its header has more than" in refused(tmp_path / "x.gguf")


def test_a_vocabulary_is_passed_over(tmp_path: Path) -> None:
    tokens = struct.pack("<IQ", TEXT, 150_000) + b"".join(text(f"t{n}") for n in range(150_000))
    kinds = struct.pack("<IQ150000i", 5, 150_000, *range(150_000))
    data = encode(
        [("tokens", ARRAY, tokens), ("kinds", ARRAY, kinds)], [("a", [4], 0, 0)], bytes(16)
    )
    (tmp_path / "x.gguf").write_bytes(data)
    file = open_tensors(tmp_path, tmp_path / "x.gguf")
    assert file.names == ["a"] and not file.metadata
    file.close()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_only_regular_files_of_the_folder_are_opened(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    make(tmp_path / "x.gguf")
    refused(tmp_path / "x.gguf")
