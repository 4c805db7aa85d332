"""An image is saved under a dated name, and nothing is ever overwritten."""

from __future__ import annotations

import re
import threading
from datetime import datetime

import pytest

from wuliart_client import GeneratedImage, Timings
from wuliart_client._image import save_dated, write_new

NOW = datetime(2024, 12, 31, 23, 59, 59)


def image(data: bytes) -> GeneratedImage:
    return GeneratedImage(data, "image/jpeg", 1024, 1024, 1, 4, (), Timings(0, 0, 0, 0, 0, 0))


def test_the_name_is_the_time_and_a_taken_one_gives_way_to_the_next_second(tmp_path):
    folder = tmp_path / "a" / "b"
    first = save_dated(folder, b"1", NOW)
    second = save_dated(folder, b"2", NOW)
    assert [first.name, second.name] == ["20241231_235959.jpg", "20250101_000000.jpg"]
    assert [first.read_bytes(), second.read_bytes()] == [b"1", b"2"]


def test_save_uses_the_clock(tmp_path):
    before = datetime.now().replace(microsecond=0)
    path = image(b"x").save(tmp_path)
    assert re.fullmatch(r"\d{8}_\d{6}\.jpg", path.name)
    assert before <= datetime.strptime(path.stem, "%Y%m%d_%H%M%S") <= datetime.now()


def test_threads_that_race_for_a_name_each_get_their_own(tmp_path):
    start = threading.Barrier(4)
    saved: dict[bytes, object] = {}

    def save(data: bytes) -> None:
        start.wait()
        for n in range(25):
            content = data + bytes([n])
            saved[content] = save_dated(tmp_path, content, NOW)

    threads = [threading.Thread(target=save, args=(bytes([n]),)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(saved.values())) == 100
    assert all(path.read_bytes() == content for content, path in saved.items())


def test_save_as_never_overwrites(tmp_path):
    path = tmp_path / "mine.jpg"
    assert image(b"1").save_as(path) == path
    with pytest.raises(FileExistsError):
        image(b"2").save_as(path)
    assert path.read_bytes() == b"1"


def test_a_write_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        write_new(tmp_path / "x.jpg", "not bytes")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
