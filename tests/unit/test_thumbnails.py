"""A preview image becomes a small JPEG, or is refused, whatever its bytes."""

from __future__ import annotations

import io
import os
import signal
import struct
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lora_manager import thumbnail_process
from lora_manager.thumbnail_process import ThumbnailProcess, UnusableImageError
from lora_manager.thumbnail_worker import MAX_PIXELS, UnusableError, thumbnail
from tests.support.preview_images import chunk, color_of, image, png, zeros
from wuliart_contract.limits import MAX_THUMBNAIL_BYTES, THUMBNAIL_PIXELS


def noise(width: int, height: int) -> bytes:
    """Returns a PNG of random pixels."""
    file = io.BytesIO()
    Image.frombytes("RGB", (width, height), os.urandom(width * height * 3)).save(file, "PNG")
    return file.getvalue()


NOISE = noise(256, 256)


def checked(jpeg: bytes) -> Image.Image:
    """Returns the thumbnail's image; checks what every thumbnail is."""
    assert len(jpeg) <= MAX_THUMBNAIL_BYTES
    opened = Image.open(io.BytesIO(jpeg), formats=("JPEG",))
    opened.load()
    assert opened.mode == "RGB" and max(opened.size) <= THUMBNAIL_PIXELS
    assert set(opened.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
    return opened


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize(
    ("size", "small"),
    [
        ((64, 48), (64, 48)),
        ((1024, 1024), (256, 256)),
        ((768, 1152), (171, 256)),
        ((1000, 1), (256, 1)),
        ((1, 1), (1, 1)),
    ],
)
def test_every_format_at_every_size(
    kind: str, size: tuple[int, int], small: tuple[int, int]
) -> None:
    jpeg = thumbnail(image(kind, (200, 30, 30), size))
    assert checked(jpeg).size == small
    assert color_of(jpeg) == (200, 30, 30)


@pytest.mark.parametrize(
    ("mode", "color", "seen"),
    [
        ("RGBA", (200, 30, 30, 0), (260, 260, 260)),
        ("RGBA", (200, 30, 30, 255), (200, 30, 30)),
        ("LA", (100, 255), (100, 100, 100)),
        ("L", 100, (100, 100, 100)),
        ("1", 1, (260, 260, 260)),
        ("P", 0, (0, 0, 0)),
    ],
)
def test_other_kinds_of_pixels_over_white(
    mode: str, color: object, seen: tuple[int, int, int]
) -> None:
    jpeg = thumbnail(image("PNG", color, mode=mode))
    checked(jpeg)
    assert color_of(jpeg) == seen


def test_a_cmyk_photograph() -> None:
    checked(thumbnail(image("JPEG", (0, 255, 255, 0), mode="CMYK")))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_photograph_is_turned_upright_and_loses_its_metadata(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a private description"
    jpeg = thumbnail(image(kind, size=(400, 200), exif=exif, icc_profile=b"\0" * 200))
    assert checked(jpeg).size == (128, 256)
    assert b"private" not in jpeg


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_of_an_animation_the_first_frame(kind: str) -> None:
    file = io.BytesIO()
    frames = [Image.new("RGB", (64, 64), color) for color in ((200, 30, 30), (30, 200, 30))]
    frames[0].save(file, kind, save_all=True, append_images=frames[1:] * 20, lossless=True)
    assert color_of(thumbnail(file.getvalue())) == (200, 30, 30)


def test_noise_fits_at_a_lower_quality() -> None:
    assert checked(thumbnail(NOISE)).size == (256, 256)


TEXT = chunk(b"zTXt", b"Comment\0\0" + zeros(100 << 20))
PROFILE = chunk(b"iCCP", b"icc\0\0" + zeros(100 << 20))
HUGE = 100_000

HOSTILE = {
    "empty": b"",
    "text": b"not an image",
    "gif": image("GIF"),
    "bmp": image("BMP"),
    "tiff": image("TIFF"),
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(r) file\n",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "truncated png": NOISE[:-80],
    "truncated jpeg": image("JPEG", size=(500, 500))[:900],
    "truncated webp": image("WEBP", size=(500, 500))[:-20],
    "preallocated": NOISE[:9000] + bytes(len(NOISE) - 9000),
    "more pixels than allowed": image("PNG", 0, (8000, 5001), "1"),
    "an edge too long": image("PNG", 0, (20_001, 1), "1"),
    "announces huge": png(HUGE, HUGE, zeros(1 << 20)),
    "announces the most there is": png(2**31 - 1, 2**31 - 1, zeros(1 << 20)),
    "announces nothing": png(0, 0, zeros(10)),
    "rows that are missing": png(6000, 6000, zeros(1000)),
    "webp that announces much": b"RIFF" + struct.pack("<I", 30) + b"WEBPVP8X"
    + struct.pack("<I", 10) + b"\0" * 4 + b"\xff" * 6 + bytes(8),
    "jpeg that announces much": b"\xff\xd8\xff\xc0\0\x11\x08\xff\xff\xff\xff\x03\x01\x22\0"
    b"\x02\x11\x01\x03\x11\x01\xff\xd9",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_cannot_be_used_is_refused(name: str) -> None:
    with pytest.raises(UnusableError, match=r"decoded \(|the limit"):
        thumbnail(HOSTILE[name])


@pytest.mark.parametrize("text", [TEXT, PROFILE], ids=["text", "profile"])
def test_chunks_that_unpack_to_a_hundred_megabytes_are_not_unpacked(text: bytes) -> None:
    assert len(text) < 1 << 20
    data = png(4, 4, zeros(4 * 13), text)
    with suppress(UnusableError):
        checked(thumbnail(data))


SEEDS = [image(kind, size=(40, 30), exif=b"Exif\0\0MM\0*") for kind in ("PNG", "JPEG", "WEBP")]


@settings(max_examples=300)
@given(st.sampled_from(SEEDS), st.data())
def test_damaged_images_are_refused_or_small(seed: bytes, data: st.DataObject) -> None:
    changed = bytearray(seed)
    for place in data.draw(st.lists(st.integers(0, len(seed) - 1), max_size=6)):
        changed[place] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(changed)))
    try:
        checked(thumbnail(bytes(changed[:end])))
    except UnusableError as error:
        assert str(error).isprintable()


@pytest.fixture
async def process() -> AsyncIterator[ThumbnailProcess]:
    running = ThumbnailProcess()
    yield running
    await running.stop()


async def test_the_process_answers_one_image_after_another(process: ThumbnailProcess) -> None:
    assert color_of(await process.thumbnail(image("WEBP"))) == (200, 30, 30)
    for name in ("empty", "announces huge", "truncated jpeg"):
        with pytest.raises(UnusableImageError, match=r"decoded|the limit"):
            await process.thumbnail(HOSTILE[name])
    assert color_of(await process.thumbnail(image("JPEG", (30, 30, 200)))) == (30, 30, 200)


async def test_an_image_that_ends_the_process_costs_itself_alone(
    process: ThumbnailProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    await process.thumbnail(image())
    assert process._process is not None
    os.kill(process._process.pid, signal.SIGSEGV)
    assert color_of(await process.thumbnail(image(color=(30, 30, 200)))) == (30, 30, 200)
    await process.stop()
    for module in ("this", "timeit", "no_such_module"):  # other answers, and none
        monkeypatch.setattr(thumbnail_process, "_MODULE", module)
        with pytest.raises(UnusableImageError, match="crashed the decoder, twice"):
            await process.thumbnail(image())
    monkeypatch.undo()
    assert color_of(await process.thumbnail(image())) == (200, 30, 30)


async def test_the_process_has_limits_on_memory_and_time(process: ThumbnailProcess) -> None:
    await process.thumbnail(image())
    assert process._process is not None
    with open(f"/proc/{process._process.pid}/limits", encoding="ascii") as file:  # noqa: ASYNC230, PTH123
        limits = file.read()
    for limit in ("Max address space", "Max cpu time"):
        line = next(line for line in limits.splitlines() if line.startswith(limit))
        assert line[len(limit) :].split()[0] != "unlimited", line
    size = (8000, MAX_PIXELS // 8000)
    largest = image("WEBP", 0, size, lossless=True, quality=0, method=0)
    checked(await process.thumbnail(largest))
