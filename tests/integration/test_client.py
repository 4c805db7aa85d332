"""Both clients against a fake of the services on a real Unix socket; every test runs twice."""

from __future__ import annotations

import asyncio
import itertools

import grpc
import pytest

from tests.support.fake_image_server import (
    DEADLINE,
    HASH,
    JPEG,
    Drop,
    Fail,
    FakeImageServer,
    Hold,
    adapter,
    change,
    completed,
    snapshot,
    started,
    step,
)
from wuliart.v1 import adapter_pb2, image_generation_pb2
from wuliart_client import (
    AdapterEventKind,
    AdapterNotFound,
    AdapterRefused,
    AdapterState,
    AsyncClient,
    Cancelled,
    Client,
    Completed,
    DeadlineExceeded,
    GenerationFailed,
    InvalidRequest,
    NoFreeSlot,
    ProtocolError,
    Queued,
    QueueFull,
    SkippedAdapter,
    Started,
    Step,
    Unavailable,
)
from wuliart_contract.status import Reason


class Sync:
    """Drives `Client`."""

    def __init__(self, target):
        self.target = target

    def call(self, method, *arguments, **options):
        with Client(self.target) as client:
            return getattr(client, method)(*arguments, **options)

    def take(self, method, *arguments, count=None, **options):
        with Client(self.target) as client, getattr(client, method)(*arguments, **options) as got:
            return list(itertools.islice(got, count))


class Async:
    """Drives `AsyncClient` to the same effect."""

    def __init__(self, target):
        self.target = target

    def call(self, method, *arguments, **options):
        async def run():
            async with AsyncClient(self.target) as client:
                return await getattr(client, method)(*arguments, **options)

        return asyncio.run(run())

    def take(self, method, *arguments, count=None, **options):
        async def run():
            async with (
                AsyncClient(self.target) as client,
                getattr(client, method)(*arguments, **options) as got,
            ):
                events = []
                while len(events) != count:
                    try:
                        events.append(await anext(got))
                    except StopAsyncIteration:
                        break
                return events

        return asyncio.run(run())


@pytest.fixture
def fake():
    with FakeImageServer() as server:
        yield server


@pytest.fixture(params=[Sync, Async], ids=["sync", "async"])
def drive(request, fake):
    return request.param(fake.target)


def test_a_whole_image(fake, drive, tmp_path):
    seen = []
    image = drive.call(
        "generate_image",
        "灯塔 in ink",
        seed=7,
        steps=4,
        adapters=[("ink", 0.8)],
        on_event=seen.append,
    )
    assert [type(event) for event in seen] == [Queued] * 2 + [Started] + [Step] * 4 + [Completed]
    assert seen[-1].image == image
    assert (image.data, image.media_type, image.width) == (JPEG, "image/jpeg", 1024)
    assert image.adapters[0].content_hash == HASH
    assert image.save(tmp_path / "new").read_bytes() == JPEG
    (request,) = fake.requests
    assert request.prompt == "灯塔 in ink"
    assert (request.seed, request.steps, request.preview) == (7, 4, False)
    assert request.adapters[0].name == "ink"
    assert not fake.cancelled.is_set()


def test_what_is_not_given_is_not_sent(fake, drive):
    drive.call("generate_image", "p")
    (request,) = fake.requests
    assert not request.HasField("seed")
    assert not request.HasField("steps")
    assert not request.adapters


def test_previews(fake, drive):
    fake.images.append([started(steps=2), step(1, 2, b"one"), step(2, 2), completed()])
    events = drive.take("generate", "p", preview=True)
    assert [event.preview for event in events if isinstance(event, Step)] == [b"one", None]
    assert fake.requests[0].preview


def test_a_image_beyond_grpcs_own_limit_of_4_mib(fake, drive):
    image = bytes(6 << 20)
    fake.images.append([started(), completed(image=image)])
    assert drive.call("generate_image", "p").data == image


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (Fail(Reason.ADAPTER_REFUSED, "adapter 'x' was refused: it holds NaN"), AdapterRefused),
        (Fail(Reason.NON_FINITE, "non-finite latent after step 2"), GenerationFailed),
        (Fail(Reason.INTERNAL, "an error inside the server"), GenerationFailed),
        (Fail(Reason.SESSION_LOST, "the session is gone"), ProtocolError),
    ],
    ids=lambda value: value.reason if isinstance(value, Fail) else "",
)
def test_a_reason_becomes_its_exception_with_the_servers_words(fake, drive, failure, kind):
    fake.images.append([failure])
    with pytest.raises(kind) as caught:
        drive.call("generate_image", "p")
    assert type(caught.value) is kind
    assert str(caught.value) == failure.message
    assert caught.value.reason == failure.reason


@pytest.mark.parametrize("reason", [Reason.STARTING, Reason.DRAINING, Reason.MANAGER_UNAVAILABLE])
def test_a_server_that_stays_unavailable_is_tried_four_times(fake, drive, reason):
    fake.default = [Fail(reason, "not now")]
    with pytest.raises(Unavailable, match=r"^not now$") as caught:
        drive.call("generate_image", "p")
    assert caught.value.reason == reason
    assert len(fake.requests) == 4


def test_every_violation_is_listed(fake, drive):
    violations = (("prompt", "must not be empty"), ("steps", "must be from 1 to 4, not 5"))
    fake.images.append([Fail(Reason.INVALID_REQUEST, "bad", violations=violations)])
    with pytest.raises(InvalidRequest) as caught:
        drive.call("generate_image", "", steps=5)
    assert caught.value.violations == violations
    assert str(caught.value) == "prompt: must not be empty; steps: must be from 1 to 4, not 5"
    assert len(fake.requests) == 1


def test_an_unknown_adapter_names_the_nearest(fake, drive):
    fake.images.append(
        [Fail(Reason.ADAPTER_NOT_FOUND, "no adapter 'inc'", metadata={"nearest": "ink"})]
    )
    with pytest.raises(
        AdapterNotFound, match=r"^no adapter 'inc'; did you mean 'ink'\?$"
    ) as caught:
        drive.call("generate_image", "p", adapters=["inc"])
    assert caught.value.nearest == "ink"


@pytest.mark.parametrize(
    ("reason", "kind"), [(Reason.QUEUE_FULL, QueueFull), (Reason.NO_FREE_SLOT, NoFreeSlot)]
)
def test_a_busy_server_says_when_to_try_again(fake, drive, reason, kind):
    fake.images.append([Fail(reason, "8 requests wait", retry_after=2.5)])
    with pytest.raises(kind) as caught:
        drive.call("generate_image", "p")
    assert caught.value.retry_after == 2.5
    assert len(fake.requests) == 1


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (Fail(None, "bad", code=grpc.StatusCode.INVALID_ARGUMENT), InvalidRequest),
        (Fail(None, "gone", code=grpc.StatusCode.CANCELLED), Cancelled),
        (Fail(None, "what?", code=grpc.StatusCode.UNIMPLEMENTED), ProtocolError),
        (Fail("NEW_REASON", "new", code=grpc.StatusCode.ABORTED), ProtocolError),
        (
            Fail("QUEUE_FULL", "x", code=grpc.StatusCode.INTERNAL, domain="another.example"),
            ProtocolError,
        ),
    ],
    ids=["invalid", "cancelled", "unimplemented", "unknown reason", "foreign domain"],
)
def test_a_status_that_is_not_ours_goes_by_its_code(fake, drive, failure, kind):
    fake.images.append([failure])
    with pytest.raises(kind) as caught:
        drive.call("generate_image", "p")
    assert type(caught.value) is kind


def test_unavailable_before_the_first_event_is_tried_again(fake, drive):
    fake.images.extend([[Fail(Reason.STARTING)], [Fail(Reason.STARTING)]])
    assert drive.call("generate_image", "p").data == JPEG
    assert len(fake.requests) == 3
    fake.unary_failures.append(Fail(Reason.STARTING))
    assert drive.call("info").version == "9.9"


def test_unavailable_after_the_first_event_is_not_tried_again(fake, drive):
    fake.images.append([started(), Fail(Reason.DRAINING)])
    with pytest.raises(Unavailable):
        drive.call("generate_image", "p")
    assert len(fake.requests) == 1


def test_a_server_that_is_not_there(fake, drive):
    fake.stop()
    with pytest.raises(Unavailable, match="is it running") as caught:
        drive.call("info")
    assert fake.target in str(caught.value)
    assert caught.value.reason is None


def test_a_server_that_dies_while_generating(fake, drive):
    fake.images.append([started(), step(1), Drop()])
    with pytest.raises((Unavailable, Cancelled)) as caught:
        drive.call("generate_image", "p", timeout=DEADLINE)
    assert "is it running" not in str(caught.value)


def test_a_stream_that_ends_too_early(fake, drive):
    fake.images.append([started(), step(1)])
    with pytest.raises(ProtocolError, match="before the image was complete"):
        drive.call("generate_image", "p")


def test_an_event_out_of_order_ends_the_call(fake, drive):
    fake.images.append([step(1), Hold()])
    with pytest.raises(ProtocolError):
        drive.call("generate_image", "p")
    assert fake.cancelled.wait(DEADLINE)


def test_the_timeout_ends_the_call_on_both_sides(fake, drive):
    fake.images.append([started(), Hold()])
    with pytest.raises(DeadlineExceeded, match="within 1 s"):
        drive.call("generate_image", "p", timeout=1)
    assert fake.cancelled.wait(DEADLINE)


def test_leaving_the_block_cancels_the_call(fake, drive):
    fake.images.append([started(), step(1), Hold()])
    assert len(drive.take("generate", "p", count=2)) == 2
    assert fake.cancelled.wait(DEADLINE)


def test_an_error_in_on_event_cancels_the_call_and_is_passed_on(fake, drive):
    fake.images.append([started(), Hold()])

    def on_event(event):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        drive.call("generate_image", "p", on_event=on_event)
    assert fake.cancelled.wait(DEADLINE)


def test_skipped_adapters_are_in_the_started_event_and_the_image(fake, drive):
    left_out = {"name": "stone", "reason": "ADAPTER_NOT_FOUND", "message": "there is none"}
    fake.default = [started(steps=1, skipped_adapters=[left_out]), step(1, 1), completed()]
    first, *_ = drive.take("generate", "p", adapters=["stone"])
    image = drive.call("generate_image", "p", adapters=["stone"])
    assert first.skipped_adapters == image.skipped_adapters == (SkippedAdapter(**left_out),)


def test_adapters(fake, drive):
    resident = adapter("b", state=adapter_pb2.ADAPTER_STATE_RESIDENT, generation=5, slot=0)
    resident.resident_since.FromJsonString("2024-05-21T14:23:05Z")
    refused = adapter("c", state=adapter_pb2.ADAPTER_STATE_REFUSED, refusal_reason="truncated")
    fake.adapters = [adapter("a", pinned=True), resident, refused, adapter("d", state=99)]
    adapters = drive.call("adapters")
    assert [(one.name, one.state) for one in adapters] == [
        ("a", AdapterState.AVAILABLE),
        ("b", AdapterState.RESIDENT),
        ("c", AdapterState.REFUSED),
        ("d", AdapterState.UNKNOWN),
    ]
    assert adapters[0].trigger_words == ("ink wash",)
    assert adapters[0].resident_since is None
    assert adapters[1].resident_since.isoformat() == "2024-05-21T14:23:05+00:00"
    assert adapters[2].refusal_reason == "truncated"
    assert [one.slot for one in adapters] == [None, 0, None, None]
    assert [one.pinned for one in adapters] == [True, False, False, False]


def test_thumbnails_and_notes(fake, drive):
    fake.adapters = [adapter("a", thumbnail_hash=HASH, notes=["one", "two"]), adapter("b")]
    fake.thumbnails = {"a": b"\xff\xd8"}
    first, second = drive.call("adapters")
    assert (first.thumbnail_hash, first.notes) == (HASH, ("one", "two"))
    assert (second.thumbnail_hash, second.notes) == ("", ())
    assert drive.call("thumbnail", "a") == b"\xff\xd8"
    assert drive.call("thumbnail", "b") is None
    fake.unary_failures.append(Fail(Reason.ADAPTER_NOT_FOUND, "there is none"))
    with pytest.raises(AdapterNotFound):
        drive.call("thumbnail", "c")


def test_watch_and_resume(fake, drive):
    fake.watches.append([snapshot(3, adapter("a")), change(4, added=adapter("b")), Hold()])
    fake.watches.append([change(5, removed=adapter("a")), change(6, refused=adapter("x"))])
    first = drive.take("watch", count=2)
    assert fake.cancelled.wait(DEADLINE)
    assert [event.kind for event in first] == [AdapterEventKind.SNAPSHOT, AdapterEventKind.ADDED]
    assert [one.name for one in first[0].adapters] == ["a"]
    assert first[0].adapter is None
    assert first[1].adapter.name == "b"
    second = drive.take("watch", first[-1].resume_token)
    assert [(event.kind.value, event.revision) for event in second] == [
        ("removed", 5),
        ("refused", 6),
    ]
    assert fake.resume_tokens == ["", "token-4"]


def test_info(fake, drive):
    fake.info = image_generation_pb2.GetServerInfoResponse(
        version="1.2",
        model={"name": "embedded", "embedded": True, "schedules": [{"sigmas": [1, 0.5, 0]}]},
        device={"kind": "cpu", "name": "a cpu", "dtype": "float32"},
        limits={"width": 1024, "adapter_slots": 8},
        segments=[{"name": "adapter slots", "size_bytes": 10, "used_bytes": 5, "location": "host"}],
        lora_manager_connected=True,
        queue_length=2,
    )
    info = drive.call("info")
    assert info.model.schedules == ((1.0, 0.5, 0.0),)
    assert info.model.description is None
    assert info.device.dtype == "float32"
    assert info.limits.adapter_slots == 8
    assert info.segments[0].used_bytes == 5
    assert info.lora_manager_connected
    assert info.queue_length == 2


def test_the_target_may_come_from_the_environment(fake, drive, monkeypatch):
    monkeypatch.setenv("WULIART_TARGET", fake.target)
    drive.target = None
    assert drive.call("info").version == "9.9"
