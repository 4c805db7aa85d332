"""Adapter files are added, changed, and removed while a whole service generates images."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import LiveService, running
from tests.support.bad_lora_files import BAD_FILES
from wuliart_client import AdapterNotFound, AdapterRefused, AdapterState


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Iterator[LiveService]:
    with running(tmp_path_factory.mktemp("live"), small_model) as service:
        yield service


@pytest.fixture
def live(shared: LiveService) -> Iterator[LiveService]:
    """One service for all tests here, with an empty folder at the start of each."""
    yield shared
    for path in shared.loras.rglob("*.safetensors"):
        path.unlink()
    shared.wait(lambda: not shared.client.adapters(), "all adapters gone")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_an_adapter_is_added_changed_renamed_and_removed(live: LiveService) -> None:
    plain = live.generate()
    first, second = live.adapter_file(1), live.adapter_file(2)

    live.drop("ink", first)
    live.wait_usable("ink")
    with_first = live.generate("ink")
    assert with_first != plain
    assert live.generate(("ink", 0.0)) == plain
    assert live.generate(("ink", -0.5)) not in (plain, with_first)

    live.drop("ink", second)
    live.wait_usable("ink", sha256(second))
    with_second = live.generate("ink")
    assert with_second not in (plain, with_first)

    # The first version again gives its image again, under a new generation.
    live.drop("ink", first)
    adapter = live.wait_usable("ink", sha256(first))
    assert live.generate("ink") == with_first
    assert adapter.generation > 1

    (live.loras / "ink.safetensors").rename(live.loras / "brush.safetensors")
    live.wait_usable("brush")
    live.wait(lambda: live.adapter("ink") is None, "the old name gone")
    assert live.generate("brush") == with_first
    with pytest.raises(AdapterNotFound):
        live.generate("ink")

    (live.loras / "brush.safetensors").unlink()
    live.wait(lambda: live.adapter("brush") is None, "the adapter gone")
    with pytest.raises(AdapterNotFound):
        live.generate("brush")
    assert live.generate() == plain


def test_an_image_uses_exactly_one_version(live: LiveService) -> None:
    versions = [live.adapter_file(seed) for seed in (1, 2, 3)]
    golden: dict[str, bytes] = {}
    for data in versions:
        live.drop("ink", data)
        live.wait_usable("ink", sha256(data))
        golden[sha256(data)] = live.generate("ink", steps=2)
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
    assert len(seen) > 1, "all images used the same version; the test showed nothing"


def test_more_adapters_than_slots_can_all_be_used(live: LiveService) -> None:
    names = [f"adapter{n}" for n in range(6)]
    for n, name in enumerate(names):
        live.drop(name, live.adapter_file(n))
    live.wait(lambda: len(live.client.adapters()) == len(names), "all listed")
    first = [live.generate(name) for name in names]
    assert len(set(first)) == len(names)
    assert [live.generate(name) for name in reversed(names)] == list(reversed(first))
    states = [adapter.state for adapter in live.client.adapters()]
    assert states.count(AdapterState.RESIDENT) == 4
    # Four in one image, some of them not resident.
    assert live.generate(*names[:4]) == live.generate(*names[:4])


def test_bad_files_are_refused_with_a_reason_and_do_no_harm(live: LiveService) -> None:
    live.drop("good", live.adapter_file(1))
    live.wait_usable("good")
    before = live.generate("good")
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
                live.generate(adapter.name)
            assert adapter.refusal_reason in str(caught.value)
    assert live.generate("good") == before

    # An adapter that is overwritten with rubbish is refused, and usable again when restored.
    live.drop("good", b"rubbish" * 100)
    live.wait(
        lambda: (a := live.adapter("good")) is not None and a.state is AdapterState.REFUSED,
        "refused",
    )
    with pytest.raises(AdapterRefused):
        live.generate("good")
    live.drop("good", live.adapter_file(1))
    live.wait_usable("good")
    assert live.generate("good") == before
    live.service.check()
