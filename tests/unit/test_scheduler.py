"""The queue and the device thread: order, events, and what runs concurrently."""

from __future__ import annotations

import io
import threading
from collections.abc import AsyncIterator, Sequence

import pytest
from PIL import Image

from inference_server.adapters.records import AdapterWeight
from inference_server.errors import RequestError
from inference_server.scheduler import jpeg_thread as jpeg_module
from inference_server.scheduler import queue_positions as positions_module
from inference_server.scheduler.events import AdapterUse, Completed, Started, StepDone
from tests.support.fakes import DEADLINE, colour, settle, until
from tests.support.scheduler_bench import Bench
from wuliart_contract.status import Reason


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with Bench() as bench:
        yield bench


async def test_events_and_timings_of_one_image(bench: Bench) -> None:
    client = bench.submit(5, steps=3)
    await client.ended()
    assert client.error is None
    started, *steps, completed = client.events
    assert isinstance(started, Started)
    assert (started.seed, started.steps, started.adapters) == (5, 3, ())
    assert [(s.step, s.total_steps, s.preview) for s in steps if isinstance(s, StepDone)] == [
        (1, 3, None), (2, 3, None), (3, 3, None),
    ]  # fmt: skip
    elapsed = [step.elapsed for step in steps if isinstance(step, StepDone)]
    assert 0 <= elapsed[0] <= elapsed[1] <= elapsed[2]
    assert isinstance(completed, Completed)
    assert completed.seed == 5
    t = completed.timings
    stages = (t.queued, t.text_encode, t.denoise, t.decode, t.jpeg_encode)
    assert min(stages) >= 0
    assert sum(stages) <= t.total + 1e-6
    assert bench.scheduler.queue_length == 0
    assert bench.engine.entered("preview") == 0


async def test_the_jpeg_is_the_image_of_its_seed(bench: Bench) -> None:
    clients = [bench.submit(seed) for seed in (3, 2**64 - 1)]
    for client in clients:
        await client.ended()
        image = Image.open(io.BytesIO(client.image.image))
        assert (image.format, image.size) == ("JPEG", (1024, 1024))
        found = image.convert("RGB").getpixel((500, 500))
        assert isinstance(found, tuple)
        expected = colour(client.seed)
        assert all(abs(a - b) <= 3 for a, b in zip(found, expected, strict=True))


async def test_the_started_event_names_the_adapter_versions(bench: Bench) -> None:
    adapters = (AdapterWeight("ink", 0.5), AdapterWeight("水墨", 0.0))
    client = bench.submit(1, prompt="x" * 600, adapters=adapters)
    await client.ended()
    started = client.events[0]
    assert isinstance(started, Started)
    assert started.adapters == (
        AdapterUse("ink", 0.5, "hash of ink", 100), AdapterUse("水墨", 0.0, "hash of 水墨", 101),
    )  # fmt: skip
    assert (started.prompt_tokens, started.prompt_tokens_ignored) == (600, 88)
    (image,) = bench.engine.images
    assert [adapter.gate for adapter in image.adapters] == [0.5]


async def test_every_step_has_a_preview_if_requested(bench: Bench) -> None:
    client = bench.submit(1, steps=2, preview=True)
    await client.ended()
    previews = [e.preview for e in client.events if isinstance(e, StepDone)]
    assert len(previews) == 2
    for preview in previews:
        assert preview is not None
        assert (preview.width, preview.height) == (48, 32)
        assert Image.open(io.BytesIO(preview.image)).size == (48, 32)


async def test_images_are_generated_in_order_of_arrival(bench: Bench) -> None:
    clients = [bench.submit(seed) for seed in range(3)]
    for client in clients:
        await client.ended()
    assert [image.seed for image in bench.engine.images] == [0, 1, 2]
    assert bench.binder.balanced


async def test_the_engine_is_only_called_on_its_own_thread(bench: Bench) -> None:
    for seed in range(3):
        await bench.submit(seed, preview=True).ended()
    assert len({call.thread for call in bench.engine.calls}) == 1
    assert bench.engine.calls[0].thread != threading.current_thread().name


async def test_a_fast_queue_reports_positions_at_a_limited_rate(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(positions_module, "REPORT_SECONDS", 0.1)
    bench.engine.hold()
    clients = [bench.submit(seed) for seed in range(4)]
    await settle()
    assert [client.positions for client in clients] == [[], [1], [2], [3]]
    for client in clients[1:3]:
        client.leave()
    await settle()
    assert clients[3].positions == [3], "its last report was a moment ago"
    await until(lambda: clients[3].positions == [3, 1])


async def test_positions_are_reported_as_the_queue_moves(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(positions_module, "REPORT_SECONDS", 0)
    bench.engine.hold()
    first = bench.submit(0)
    await until(lambda: bench.engine.entered("step") == 1)
    waiting = [bench.submit(seed) for seed in (1, 2, 3)]
    await settle()
    assert bench.scheduler.queue_length == 4
    assert [client.positions for client in waiting] == [[1], [2], [3]]
    bench.engine.free()
    for client in (first, *waiting):
        await client.ended()
    assert first.positions == []
    assert [client.positions for client in waiting] == [[1], [2, 1], [3, 2, 1]]
    for client in waiting:
        kinds = [type(event) for event in client.events]
        assert kinds.index(Started) == len(client.positions), "no position follows the start"


@pytest.mark.parametrize("leaver", [1, 2, 3])
async def test_leaving_moves_up_only_the_requests_behind(bench: Bench, leaver: int) -> None:
    """A position is reported again only when it has changed."""
    bench.engine.hold()
    bench.submit(0)
    await until(lambda: bench.engine.entered("step") == 1)
    waiting = {seed: bench.submit(seed) for seed in (1, 2, 3)}
    await settle()
    waiting.pop(leaver).leave()
    await until(lambda: bench.scheduler.queue_length == 3 or leaver == 1)
    bench.engine.free()
    for client in waiting.values():
        await client.ended()
        assert client.positions == sorted(set(client.positions), reverse=True)
        assert client.positions[0] == client.seed
    assert bench.engine.entered("begin", leaver) == 0


async def test_a_full_queue_refuses_with_a_retry_delay(bench: Bench) -> None:
    bench.engine.hold()
    clients = [bench.submit(0)]
    await until(lambda: bench.engine.entered("step") == 1)
    clients += [bench.submit(seed) for seed in (1, 2, 3)]
    await settle()
    with pytest.raises(RequestError, match="3 requests are waiting") as caught:
        bench.submit(4)
    assert caught.value.reason is Reason.QUEUE_FULL
    assert caught.value.retry_after is not None
    assert caught.value.retry_after >= 1
    clients.pop(2).leave()
    clients.append(bench.submit(5))
    bench.engine.free()
    for client in clients:
        await client.ended()
        assert client.error is None


async def test_an_idle_server_accepts_as_many_at_once_as_a_busy_one(bench: Bench) -> None:
    """The first request does not wait, so it does not count against the capacity."""
    clients = [bench.submit(seed) for seed in range(bench.scheduler.capacity + 1)]
    with pytest.raises(RequestError):
        bench.submit(99)
    for client in clients:
        await client.ended()
        assert client.error is None


async def test_the_next_requests_adapters_are_bound_during_the_current_image(bench: Bench) -> None:
    bench.engine.hold()
    first = bench.submit(1, adapters=(AdapterWeight("a", 1.0),))
    await until(lambda: bench.engine.entered("step") == 1)
    second = bench.submit(2, adapters=(AdapterWeight("b", 1.0),))
    third = bench.submit(3, adapters=(AdapterWeight("c", 1.0),))
    await until(lambda: len(bench.binder.bound) == 2)
    await settle()
    assert [w.name for binding in bench.binder.bound for w in binding.adapters] == ["a", "b"]
    assert bench.binder.released == []
    bench.engine.free()
    for client in (first, second, third):
        await client.ended()
    assert bench.binder.balanced


async def test_adapters_are_released_after_the_decode(bench: Bench) -> None:
    bench.engine.hold("decode")
    client = bench.submit(1, adapters=(AdapterWeight("a", 1.0),))
    await until(lambda: bench.engine.entered("decode") == 1)
    await settle()
    assert bench.binder.released == []
    bench.engine.free()
    await client.ended()
    assert bench.binder.balanced


async def test_the_next_image_is_generated_while_the_last_is_encoded(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoding, leave = threading.Event(), threading.Event()

    def slowly(pixels: object, text: str) -> bytes:
        encoding.set()
        leave.wait(DEADLINE)
        return b"jpeg"

    monkeypatch.setattr(jpeg_module, "encode_image", slowly)
    first, second = bench.submit(1), bench.submit(2)
    await until(encoding.is_set)
    await until(lambda: bench.engine.entered("decode", 2) == 1)
    assert not any(isinstance(event, Completed) for event in first.events)
    leave.set()
    await first.ended()
    await second.ended()


async def test_a_step_is_reported_when_it_ends(bench: Bench) -> None:
    bench.engine.hold()
    client = bench.submit(1)
    for step in range(1, 5):
        await until(lambda step=step: bench.engine.entered("step") == step)  # type: ignore[misc]
        await until(lambda step=step: len(client.events) == step)  # type: ignore[misc]
        assert not any(isinstance(e, StepDone) and e.step >= step for e in client.events)
        bench.engine.let(1)
    await client.ended()


async def test_adapters_that_cannot_be_bound_are_refused_before_the_queue(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(adapters: Sequence[AdapterWeight]) -> None:
        assert adapters == (AdapterWeight("gone", 1.0),)
        raise RequestError(Reason.ADAPTER_NOT_FOUND, "there is no adapter 'gone'")

    monkeypatch.setattr(bench.binder, "check", check)
    with pytest.raises(RequestError, match="no adapter 'gone'"):
        bench.submit(1, adapters=(AdapterWeight("gone", 1.0),))
    assert (bench.scheduler.queue_length, bench.binder.requested) == (0, [])
