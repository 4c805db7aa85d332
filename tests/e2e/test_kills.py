"""One process of the service is killed, stopped, or restarted; the other keeps working."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from tests.e2e.conftest import LiveService
from wuliart_client import AdapterState, GeneratedImage, Unavailable, WuliArtError


def test_manager_killed_while_an_image_is_generated(trained: LiveService) -> None:
    trained.drop("ink", trained.adapter_file(1))
    trained.wait_usable("ink")
    golden = trained.generate("ink", steps=4)

    images: list[bytes] = []
    request = threading.Thread(target=lambda: images.append(trained.generate("ink", steps=4)))
    request.start()
    trained.service.kill("manager")
    request.join()
    assert images == [golden]
    trained.wait_attached(False)

    # Without a manager, resident adapters still work; others are an error that names them.
    assert trained.generate("ink", steps=4) == golden
    trained.drop("late", trained.adapter_file(2))
    with pytest.raises(WuliArtError):
        trained.generate("late")

    trained.service.start_manager()
    trained.wait_attached()
    trained.wait_usable("late")
    assert trained.generate("ink", steps=4) == golden
    assert trained.generate("late") != trained.generate()


def test_manager_killed_repeatedly_while_it_writes(live: LiveService) -> None:
    versions = [live.adapter_file(seed, rank=32) for seed in range(2)]
    live.drop("kept", live.adapter_file(9))
    live.wait_usable("kept")
    golden = live.generate("kept")
    for turn in range(8):
        live.drop("torn", versions[turn % 2])
        time.sleep(0.01 * turn)
        live.service.kill("manager")
        live.service.start_manager()
        assert live.generate("kept") == golden
    live.wait_attached()
    live.wait_usable("torn")
    assert live.generate("torn") != golden
    live.service.check()


def test_manager_stopped_and_continued(live: LiveService) -> None:
    live.drop("ink", live.adapter_file(1))
    live.wait_usable("ink")
    golden = live.generate("ink")
    live.service.signal("manager", signal.SIGSTOP)
    live.drop("late", live.adapter_file(2))
    assert live.generate("ink") == golden
    live.service.signal("manager", signal.SIGCONT)
    live.wait_usable("late")
    assert live.generate("late") != golden


def test_server_killed_and_started_again(live: LiveService) -> None:
    for n in range(3):
        live.drop(f"adapter{n}", live.adapter_file(n))
        live.wait_usable(f"adapter{n}")
    golden = [live.generate(f"adapter{n}") for n in range(3)]
    manager = live.service.processes["manager"]
    live.service.kill("server")
    with pytest.raises(Unavailable):
        live.generate()
    live.service.start_server()
    live.service.wait_until_ready()
    live.wait_attached()
    for n in range(3):
        live.wait_usable(f"adapter{n}")
    assert [live.generate(f"adapter{n}") for n in range(3)] == golden
    assert live.service.processes["manager"] is manager
    assert manager.poll() is None


def test_second_manager_waits_and_takes_over(live: LiveService) -> None:
    first = live.service.processes.pop("manager")
    try:
        live.service.start_manager()
        time.sleep(1.0)
        live.service.check()
        live.drop("ink", live.adapter_file(1))
        live.wait_usable("ink")
    finally:
        first.kill()
        first.wait()
    live.wait_attached()
    live.drop("late", live.adapter_file(2))
    live.wait_usable("late")
    assert live.adapter("ink") is not None


def test_a_running_image_finishes_before_a_graceful_stop(trained: LiveService) -> None:
    golden = trained.generate(steps=4)
    finished: list[GeneratedImage] = []
    started = threading.Event()

    def generate() -> None:
        finished.append(
            trained.client.generate_image(
                "a boat", seed=1, steps=4, metadata=False, on_event=lambda _: started.set()
            )
        )

    request = threading.Thread(target=generate)
    request.start()
    assert started.wait(30)
    codes = trained.service.stop()
    request.join()
    assert codes == {"manager": 0, "server": 0}
    assert [image.data for image in finished] == [golden]


def test_states_after_a_restart_of_the_manager_are_the_same(live: LiveService) -> None:
    for n in range(5):
        live.drop(f"adapter{n}", live.adapter_file(n))
    live.drop("broken", b"{}")
    live.wait(lambda: len(live.client.adapters()) == 6, "all listed")
    live.service.kill("manager")
    live.service.start_manager()
    live.wait_attached()
    live.wait(
        lambda: (
            [a.state for a in live.client.adapters()].count(AdapterState.REFUSED) == 1
            and len(live.client.adapters()) == 6
        ),
        "the same catalog",
    )
    assert len({live.generate(f"adapter{n}") for n in range(5)}) == 5


def test_a_suspended_manager_is_replaced_and_stays_harmless_when_continued(
    live: LiveService,
) -> None:
    live.drop("ink", live.adapter_file(1))
    live.wait_usable("ink")
    golden = live.generate("ink")
    stopped = live.service.processes.pop("manager")
    stopped.send_signal(signal.SIGSTOP)
    try:
        # It answers no pings, so its session ends although its process is alive.
        live.wait_attached(False)
        live.service.start_manager()
        live.wait_attached()
        live.drop("late", live.adapter_file(2))
        live.wait_usable("late")
        late = live.generate("late")
    finally:
        stopped.send_signal(signal.SIGCONT)
    # Two managers run now; the continued one must neither write nor take over.
    time.sleep(3.0)
    assert stopped.poll() is None
    assert (live.generate("ink"), live.generate("late")) == (golden, late)
    live.service.check()
    stopped.kill()
    stopped.wait()
