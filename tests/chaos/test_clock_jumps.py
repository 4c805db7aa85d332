"""The time of day is set, by a day to either side, while images are generated and files come."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.image_loop import ImageLoop
from tests.chaos.world import Version, World
from wuliart_lora.slot_layout import SegmentLayout

DAY = 86_400


class TimedWorld(World):
    """Both programs with a clock that the tests set; `offset` is a file."""

    def __init__(self, folder: Path, checkpoint: Path, layout: SegmentLayout) -> None:
        super().__init__(folder, checkpoint, layout)
        self.offset = folder / "offset"
        s = self.service
        own = ["--runtime-dir", s.runtime_dir, "--listen", s.listen, *s.server_arguments]
        clock = "tests.chaos.jumping_clock"
        s._run("server", clock, ["inference_server", self.offset, *own])
        s.wait_until_ready()

    def start_manager(self, *options: str) -> None:
        s = self.service
        own = ["--loras", s.loras, "--runtime-dir", s.runtime_dir, *options]
        s._run("manager", "tests.chaos.jumping_clock", ["lora_manager", self.offset, *own])


@pytest.fixture(scope="module")
def timed(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, layout: SegmentLayout, shared: World
) -> Iterator[TimedWorld]:
    world = TimedWorld(tmp_path_factory.mktemp("timed"), checkpoint, layout)
    world.golden = shared.golden
    yield world
    world.close()


@pytest.mark.parametrize("jump", [DAY, -DAY])
def test_neither_images_nor_files_notice_a_jump_of_the_clock(
    timed: TimedWorld, versions: list[Version], jump: int
) -> None:
    first, second, third, _ = versions
    timed.drop("ink", first)
    timed.start_manager()
    timed.await_resident("ink", first)
    with ImageLoop(timed, "ink") as loop:
        loop.wait_for_more(2)
        aside = timed.offset.with_suffix(".aside")
        aside.write_text(str(jump))
        aside.rename(timed.offset)
        loop.wait_for_more(4)
        timed.drop("ink", second)
        timed.await_resident("ink", second)
        loop.wait_for_more(2)
        # A manager that starts meets files of tomorrow, or of long ago.
        timed.service.kill("manager")
        timed.drop("ink", third)
        timed.wait_attached(False)
        timed.start_manager()
        timed.await_resident("ink", third)
        timed.offset.unlink()
        loop.wait_for_more(4)
    loop.check()
    assert timed.draws("ink", third)
    timed.clear()
