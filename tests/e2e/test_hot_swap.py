"""Files come, change and go while two real processes serve images."""

from __future__ import annotations

import hashlib
import threading

import pytest

from tests.e2e.conftest import Live
from tests.support.bad_lora_files import BAD_FILES
from wuliart_client import AdapterNotFound, AdapterRefused, AdapterState


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_file_becomes_a_adapter_changes_moves_and_goes(live: Live) -> None:
    plain = live.draw()
    first, second = live.adapter_file(1), live.adapter_file(2)

    live.drop("ink", first)
    live.wait_usable("ink")
    with_first = live.draw("ink")
    assert with_first != plain
    assert live.draw(("ink", 0.0)) == plain
    assert live.draw(("ink", -0.5)) not in (plain, with_first)

    live.drop("ink", second)
    live.wait_usable("ink", sha256(second))
    with_second = live.draw("ink")
    assert with_second not in (plain, with_first)

    # Back again: the first version's image, by a new generation.
    live.drop("ink", first)
    adapter = live.wait_usable("ink", sha256(first))
    assert live.draw("ink") == with_first
    assert adapter.generation > 1

    (live.loras / "ink.safetensors").rename(live.loras / "brush.safetensors")
    live.wait_usable("brush")
    live.wait(lambda: live.adapter("ink") is None, "the old name gone")
    assert live.draw("brush") == with_first
    with pytest.raises(AdapterNotFound):
        live.draw("ink")

    (live.loras / "brush.safetensors").unlink()
    live.wait(lambda: live.adapter("brush") is None, "the adapter gone")
    with pytest.raises(AdapterNotFound):
        live.draw("brush")
    assert live.draw() == plain


def test_a_image_is_drawn_with_exactly_one_version(live: Live) -> None:
    versions = [live.adapter_file(seed) for seed in (1, 2, 3)]
    golden: dict[str, bytes] = {}
    for data in versions:
        live.drop("ink", data)
        live.wait_usable("ink", sha256(data))
        golden[sha256(data)] = live.draw("ink", steps=2)
    assert len(set(golden.values())) == len(versions)

    stop = threading.Event()

    def churn() -> None:
        turn = 0
        while not stop.wait(0.15):
            turn += 1
            live.drop("ink", versions[turn % len(versions)])

    writer = threading.Thread(target=churn)
    writer.start()
    seen = set()
    try:
        for _ in range(40):
            image = live.client.generate_image(
                "a boat", seed=1, steps=2, adapters=["ink"], metadata=False
            )
            used = image.adapters[0].content_hash
            seen.add(used)
            assert image.data == golden[used]
    finally:
        stop.set()
        writer.join()
    assert len(seen) > 1, "the file never changed under an image; the test showed nothing"


def test_more_adapters_than_slots_all_draw(live: Live) -> None:
    names = [f"adapter{n}" for n in range(6)]
    for n, name in enumerate(names):
        live.drop(name, live.adapter_file(n))
    live.wait(lambda: len(live.client.adapters()) == len(names), "all listed")
    first = [live.draw(name) for name in names]
    assert len(set(first)) == len(names)
    assert [live.draw(name) for name in reversed(names)] == list(reversed(first))
    states = [adapter.state for adapter in live.client.adapters()]
    assert states.count(AdapterState.RESIDENT) == 4
    # Four at once, some of them cold.
    assert live.draw(*names[:4]) == live.draw(*names[:4])


def test_bad_files_are_refused_with_a_reason_and_hurt_nobody(live: Live) -> None:
    live.drop("good", live.adapter_file(1))
    live.wait_usable("good")
    before = live.draw("good")
    for name, bad in BAD_FILES.items():
        live.drop(f"bad/{name}", bad.make(live.layout))
    live.wait(
        lambda: (
            sum(a.state is AdapterState.REFUSED for a in live.client.adapters()) == len(BAD_FILES)
        ),
        "all refused",
    )
    for adapter in live.client.adapters():
        if adapter.state is AdapterState.REFUSED:
            assert adapter.refusal_reason
            with pytest.raises(AdapterRefused) as caught:
                live.draw(adapter.name)
            assert adapter.refusal_reason in str(caught.value)
    assert live.draw("good") == before

    # An adapter that is overwritten with rubbish stops being one, and comes back when mended.
    live.drop("good", b"rubbish" * 100)
    live.wait(
        lambda: (a := live.adapter("good")) is not None and a.state is AdapterState.REFUSED,
        "refused",
    )
    with pytest.raises(AdapterRefused):
        live.draw("good")
    live.drop("good", live.adapter_file(1))
    live.wait_usable("good")
    assert live.draw("good") == before
    live.service.check()
