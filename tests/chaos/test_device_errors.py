"""The device, or the encoder behind it, fails once, at every stage of an image."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.chaos.leaks import nothing_leaks
from tests.chaos.server_at import ENCODERS, STAGES
from tests.chaos.world import PATIENCE, PROMPT, World
from wuliart_client import GenerationFailed
from wuliart_contract.status import Reason
from wuliart_lora.slot_layout import SegmentLayout

TOGETHER = 4
"""Images requested at once: one fails, and the others are queued behind it."""

UNSEEN = ("rest",)
"""Stages that belong to no image. An `encode` may be one, too, if it runs ahead of its image."""


class BrokenWorld(World):
    """A server that fails once at a stage chosen by the test."""

    def __init__(self, folder: Path, checkpoint: Path, layout: SegmentLayout) -> None:
        super().__init__(folder, checkpoint, layout)
        self.arm.mkdir()
        s = self.service
        own = ["--runtime-dir", s.runtime_dir, "--listen", s.listen, *s.server_arguments]
        s._run("server", "tests.chaos.server_at", [self.arm, *own])
        s.wait_until_ready()


@pytest.fixture(scope="module")
def broken(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, layout: SegmentLayout
) -> Iterator[BrokenWorld]:
    world = BrokenWorld(tmp_path_factory.mktemp("broken"), checkpoint, layout)
    yield world
    world.close()


def draw(world: World) -> bytes | GenerationFailed:
    try:
        image = world.client.generate_image(
            PROMPT, seed=1, steps=2, preview=True, metadata=False, timeout=PATIENCE
        )
    except GenerationFailed as error:
        return error
    return image.data


@pytest.mark.parametrize("stage", [*STAGES, *ENCODERS])
def test_one_image_fails_by_name_and_the_next_is_right(broken: BrokenWorld, stage: str) -> None:
    golden, life = draw(broken), broken.life
    assert isinstance(golden, bytes)
    with ThreadPoolExecutor(TOGETHER) as clients:
        list(clients.map(draw, [broken] * TOGETHER))
        with nothing_leaks(broken, "server", threads=1):
            (broken.arm / stage).touch()
            outcomes = list(clients.map(draw, [broken] * TOGETHER))
            # The engine rests when no request has come for a while.
            broken.until(lambda: not (broken.arm / stage).exists(), f"{stage} reached")
            failed = time.monotonic()
            assert draw(broken) == golden
            print(f"\n{stage}: generating again {time.monotonic() - failed:.2f} s later")
    failures = [outcome for outcome in outcomes if not isinstance(outcome, bytes)]
    assert {o for o in outcomes if isinstance(o, bytes)} == {golden}
    assert len(failures) == 1 or (stage in (*UNSEEN, "encode") and not failures)
    assert all(failure.reason == Reason.INTERNAL for failure in failures)
    # What went wrong inside is for the log, not for clients.
    assert not any("CUDA" in failure.message for failure in failures)
    assert "CUDA error" in broken.service.log("server").read_text()
    assert broken.life == life
    assert draw(broken) == golden
