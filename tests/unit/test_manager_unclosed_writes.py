"""Files that events say were written to and not closed."""

from __future__ import annotations

from lora_manager.unclosed_writes import WRITER_SILENCE_SECONDS, UnclosedWrites


def test_a_write_counts_until_the_close_or_for_as_long_as_downloads_stall() -> None:
    now = [0.0]
    unclosed = UnclosedWrites(lambda: now[0])
    unclosed.write("/a")
    unclosed.write("/b")
    unclosed.close("/b")
    assert unclosed.has("/a") and not unclosed.has("/b")
    now[0] = WRITER_SILENCE_SECONDS - 1
    assert unclosed.has("/a")
    unclosed.write("/a")
    now[0] += WRITER_SILENCE_SECONDS - 1
    assert unclosed.has("/a")
    now[0] += 1
    assert not unclosed.has("/a")


def test_a_write_moves_with_its_file_and_with_its_folder() -> None:
    unclosed = UnclosedWrites()
    unclosed.write("/x/a")
    unclosed.write("/xy")
    unclosed.move("/x/a", "/x/b")
    unclosed.move("/x", "/z")
    assert unclosed.has("/z/b") and unclosed.has("/xy")
    assert not any(map(unclosed.has, ("/x/a", "/x/b")))
    unclosed.move("/elsewhere", "/xy")
    assert not unclosed.has("/xy"), "another file has taken its place"
    unclosed.move("/z", "")
    assert not unclosed.has("/z/b")
