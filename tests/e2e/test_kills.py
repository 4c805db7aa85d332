"""Either process is killed, stopped and started again; the other does not mind."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from tests.e2e.conftest import Live
from wuliart_client import AdapterState, GeneratedImage, Unavailable, WuliArtError


def test_manager_killed_while_images_are_drawn(trained: Live) -> None:
    trained.drop("ink", trained.adapter_file(1))
    trained.wait_usable("ink")
    golden = trained.draw("ink", steps=4)

    images: list[bytes] = []
    drawing = threading.Thread(target=lambda: images.append(trained.draw("ink", steps=4)))
    drawing.start()
    trained.service.kill("manager")
    drawing.join()
    assert images == [golden]
    trained.wait_attached(False)

    # Without a manager: what is resident generates on, what is not is a named error.
    assert trained.draw("ink", steps=4) == golden
    trained.drop("late", trained.adapter_file(2))
    with pytest.raises(WuliArtError):
        trained.draw("late")

    trained.service.start_manager()
    trained.wait_attached()
    trained.wait_usable("late")
    assert trained.draw("ink", steps=4) == golden
    assert trained.draw("late") != trained.draw()


def test_manager_killed_again_and_again_while_it_writes(live: Live) -> None:
    versions = [live.adapter_file(seed, rank=32) for seed in range(2)]
    live.drop("kept", live.adapter_file(9))
    live.wait_usable("kept")
    golden = live.draw("kept")
    for turn in range(8):
        live.drop("torn", versions[turn % 2])
        time.sleep(0.01 * turn)
        live.service.kill("manager")
        live.service.start_manager()
        assert live.draw("kept") == golden
    live.wait_attached()
    live.wait_usable("torn")
    assert live.draw("torn") != golden
    live.service.check()


def test_manager_stopped_and_continued(live: Live) -> None:
    live.drop("ink", live.adapter_file(1))
    live.wait_usable("ink")
    golden = live.draw("ink")
    live.service.signal("manager", signal.SIGSTOP)
    live.drop("late", live.adapter_file(2))
    assert live.draw("ink") == golden
    live.service.signal("manager", signal.SIGCONT)
    live.wait_usable("late")
    assert live.draw("late") != golden


def test_server_killed_and_started_again(live: Live) -> None:
    for n in range(3):
        live.drop(f"adapter{n}", live.adapter_file(n))
        live.wait_usable(f"adapter{n}")
    golden = [live.draw(f"adapter{n}") for n in range(3)]
    manager = live.service.processes["manager"]
    live.service.kill("server")
    with pytest.raises(Unavailable):
        live.draw()
    live.service.start_server()
    live.service.wait_until_ready()
    live.wait_attached()
    for n in range(3):
        live.wait_usable(f"adapter{n}")
    assert [live.draw(f"adapter{n}") for n in range(3)] == golden
    assert live.service.processes["manager"] is manager
    assert manager.poll() is None


def test_second_manager_waits_and_takes_over(live: Live) -> None:
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


def test_a_running_image_survives_a_polite_stop(trained: Live) -> None:
    golden = trained.draw(steps=4)
    finished: list[GeneratedImage] = []
    started = threading.Event()

    def draw() -> None:
        finished.append(
            trained.client.generate_image(
                "a boat", seed=1, steps=4, metadata=False, on_event=lambda _: started.set()
            )
        )

    drawing = threading.Thread(target=draw)
    drawing.start()
    assert started.wait(30)
    codes = trained.service.stop()
    drawing.join()
    assert codes == {"manager": 0, "server": 0}
    assert [image.data for image in finished] == [golden]


def test_states_after_a_restart_of_the_manager_are_the_same(live: Live) -> None:
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
        "the same catalogue",
    )
    assert len({live.draw(f"adapter{n}") for n in range(5)}) == 5


def test_a_stopped_manager_makes_room_and_comes_back_harmless(live: Live) -> None:
    live.drop("ink", live.adapter_file(1))
    live.wait_usable("ink")
    golden = live.draw("ink")
    stopped = live.service.processes.pop("manager")
    stopped.send_signal(signal.SIGSTOP)
    try:
        # It answers no pings; its session ends although its process lives.
        live.wait_attached(False)
        live.service.start_manager()
        live.wait_attached()
        live.drop("late", live.adapter_file(2))
        live.wait_usable("late")
        late = live.draw("late")
    finally:
        stopped.send_signal(signal.SIGCONT)
    # Two managers now; the one that came back must neither write nor take over.
    time.sleep(3.0)
    assert stopped.poll() is None
    assert (live.draw("ink"), live.draw("late")) == (golden, late)
    live.service.check()
    stopped.kill()
    stopped.wait()
