"""The log: one line per record, the id of the request it is about, and no prompt."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

import pytest

from inference_server import logs
from inference_server.adapters.records import AdapterWeight
from inference_server.errors import RequestError
from inference_server.scheduler.running_request import RunningRequest
from tests.support.fakes import until
from tests.support.scheduler_bench import Bench
from wuliart_contract.status import Reason
from wuliart_process.log_handler import StderrHandler
from wuliart_process.log_repeats import ALLOWED, WINDOW_SECONDS, Repeats

PROMPT = "a very private lighthouse"


class Output:
    """The log since `configure`, which is called while standard error is a file."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    @property
    def text(self) -> str:
        for handler in logging.getLogger().handlers:
            handler.flush()
        return Path(self.stream.name).read_text(encoding="utf-8")

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]

    def about(self, request_id: str) -> list[dict[str, Any]]:
        return [record for record in self.records if record.get("request_id") == request_id]


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Output]:
    """Logs JSON lines; restores the logging configuration afterwards."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    root.handlers.clear()  # `configure` closes what it replaces
    with (tmp_path / "stderr").open("a") as stream:
        monkeypatch.setattr("sys.stderr", stream)
        # Patched so that they are restored afterwards.
        monkeypatch.setattr("sys.unraisablehook", sys.unraisablehook)
        monkeypatch.setattr("threading.excepthook", threading.excepthook)
        logs.configure("DEBUG", "json")
        try:
            yield Output(stream)
        finally:
            for handler in root.handlers:
                handler.flush()
                handler.close()
            root.handlers[:] = before
            root.setLevel(level)
            logging.captureWarnings(False)


def test_a_record_is_one_json_object_on_one_line(output: Output) -> None:
    log = logging.getLogger("some.where")
    log.info("two\nlines, %s", "水彩", extra={"steps": 4, "adapters": ["a", "b"], "odd": {1}})
    try:
        raise ValueError("broken\nin two")
    except ValueError:
        log.exception("failed")
    first, second = output.records
    assert datetime.fromisoformat(first.pop("time")).tzinfo is not None
    assert first == {
        "level": "INFO", "logger": "some.where", "message": "two\nlines, 水彩", "steps": 4,
        "adapters": ["a", "b"], "odd": "{1}",
    }  # fmt: skip
    assert (second["level"], second["message"]) == ("ERROR", "failed")
    assert second["exception"].endswith("ValueError: broken\nin two")


def test_text_has_the_same_fields_after_the_message(
    output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr", output.stream)
    logs.configure("INFO")
    log = logging.getLogger("some.where")
    log.debug("unseen")
    log.info(
        "two\nlines", extra={"n": 4, "s": 0.25, "adapters": ["a", "b c"], "none": [], "q": 'x"'}
    )
    line = output.text
    assert line.endswith(
        'INFO some.where: two\\nlines n=4 s=0.250 adapters=a,"b c" none=- q="x\\""\n'
    )
    assert line.count("\n") == 1


def test_private_fields_of_libraries_are_left_out(output: Output) -> None:
    logging.getLogger("x").info("one", extra={"_elses": 1, "steps": 4})
    (record,) = output.records
    assert record.keys() == {"time", "level", "logger", "message", "steps"}


HOSTILE = "a\r\x1b[2J\x9b\x7f\u2028\u202e\ud800\n2026-11-30 00:00:00,000 INFO x: forged"


@pytest.mark.parametrize("form", ["text", "json"])
def test_hostile_text_can_neither_steer_a_terminal_nor_forge_a_record(
    output: Output, monkeypatch: pytest.MonkeyPatch, form: logs.Form
) -> None:
    monkeypatch.setattr("sys.stderr", output.stream)
    logs.configure("INFO", form)
    log = logging.getLogger("some.where")
    log.info("named %s", HOSTILE, extra={"field": HOSTILE, "path": Path("/a b outcome=completed")})
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        log.exception("failed")
        traceback.print_exc()
    text = output.text
    assert all(c.isprintable() or c == "\n" for c in text)
    assert not any(line.startswith("2026-11-30 00") for line in text.splitlines()[:-8])
    if form == "json":
        first, second = (json.loads(line) for line in text.splitlines()[:2])
        assert first["message"] == f"named {HOSTILE}" and first["field"] == HOSTILE
        assert second["exception"].endswith(HOSTILE)
    else:
        assert ' path="/a b outcome=completed"' in text.splitlines()[0]


def test_a_record_that_cannot_be_formatted_does_not_affect_others(output: Output) -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError

    log = logging.Logger("x")  # without pytest's own handlers, which raise
    log.handlers += [h for h in logging.getLogger().handlers if isinstance(h, StderrHandler)]
    log.info("%d", "no number")
    for _ in range(2 * ALLOWED):
        log.warning("%s", Broken())
    log.info("x" * 1_000_000)
    first, *others, last = output.records
    assert (
        first["message"].endswith("cannot be shown: TypeError") and "test_logs" in first["message"]
    )
    assert len(others) == ALLOWED and "RuntimeError" in others[0]["message"]
    assert len(last["message"]) < 10_000


def test_uncaught_exceptions_and_warnings_become_records(output: Output) -> None:
    def fail() -> None:
        raise ValueError("in a thread")

    class Unruly:
        def __del__(self) -> None:
            raise ValueError("in a finalizer")

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    Unruly()
    warnings.warn("of something", stacklevel=1)
    assert [(r["logger"], r["level"]) for r in output.records] == [
        ("threading", "ERROR"), ("python", "ERROR"), ("py.warnings", "WARNING"),
    ]  # fmt: skip


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def repeated(place: str = "", level: int = logging.ERROR) -> logging.LogRecord:
    args = (threading.get_ident(),)
    return logging.LogRecord("asyncio", level, "", 0, f"out of {place}, task-%d\nx", args, None)


def test_equal_records_become_one_line_a_minute() -> None:
    clock = Clock()
    repeats = Repeats(clock)
    assert sum(repeats.admits(repeated()) for _ in range(5_000)) == ALLOWED
    assert all(repeats.admits(repeated("patience")) for _ in range(ALLOWED))
    assert all(repeats.admits(repeated(level=logging.INFO)) for _ in range(5_000))
    clock.now = WINDOW_SECONDS - 1
    assert repeats.due() == []
    for left_out in (5_000 - ALLOWED, 7):
        clock.now += WINDOW_SECONDS
        (summary,) = repeats.due()
        assert (summary.name, summary.levelname) == ("asyncio", "ERROR")
        expected = f"{left_out} more like this within 60 s: out of , task-"
        assert summary.getMessage().startswith(expected)
        assert not any(repeats.admits(repeated()) for _ in range(7))
    clock.now += WINDOW_SECONDS
    assert len(repeats.due()) == 1
    clock.now += WINDOW_SECONDS
    assert repeats.due() == []
    assert repeats.admits(repeated())


def test_exceptions_of_different_classes_are_counted_apart() -> None:
    repeats = Repeats(Clock())

    def admitted(kind: type[Exception]) -> bool:
        try:
            raise kind
        except Exception:
            record = repeated()
            record.exc_info = sys.exc_info()
            return repeats.admits(record)

    for kind in (ValueError, OSError):
        assert sum(admitted(kind) for _ in range(100)) == ALLOWED


async def test_a_record_carries_the_id_of_the_task_that_made_it(output: Output) -> None:
    async def work(name: str) -> None:
        logs.REQUEST_ID.set(name)
        await asyncio.sleep(0)
        logging.getLogger("x").info(name)

    await asyncio.gather(*[asyncio.create_task(work(name)) for name in ("a", "b")])
    logging.getLogger("x").info("without a task's id")
    logging.getLogger("x").info("named", extra={"request_id": "c"})
    assert [r.get("request_id") for r in output.records if r["logger"] == "x"] == [
        "a", "b", None, "c",
    ]  # fmt: skip


async def test_every_request_has_an_id_of_its_own() -> None:
    async with Bench() as bench:
        request = bench.submit(1).request
        requests = [
            RunningRequest(request),
            RunningRequest(request),
            RunningRequest(request, "mine"),
        ]
        assert len({running.id for running in requests}) == 3
        assert requests[2].id == "mine"
        assert len(requests[0].id) == 16 and int(requests[0].id, 16) >= 0


async def test_a_completed_image_leaves_one_line(output: Output) -> None:
    async with Bench() as bench:
        adapters = (AdapterWeight("ink", 1.0), AdapterWeight("水墨", 0.5))
        client = bench.submit(1, prompt=PROMPT, steps=3, adapters=adapters, request_id="one")
        await client.ended()
    (record,) = output.about("one")
    timings = client.image.timings
    assert {k: v for k, v in record.items() if not k.endswith("_seconds") and k != "time"} == {
        "level": "INFO", "logger": "inference_server.scheduler.outcomes",
        "message": "image completed", "request_id": "one", "outcome": "completed", "steps": 3,
        "adapters": ["ink", "水墨"], "bytes": len(client.image.image),
    }  # fmt: skip
    stages = ("queued", "text_encode", "denoise", "decode", "jpeg_encode", "total")
    assert {k: v for k, v in record.items() if k.endswith("_seconds")} == {
        f"{stage}_seconds": round(getattr(timings, stage), 6) for stage in stages
    }


async def test_a_cancelled_image_leaves_one_line(output: Output) -> None:
    async with Bench() as bench:
        bench.engine.hold()
        started = bench.submit(1, prompt=PROMPT, request_id="started")
        await until(lambda: bench.engine.entered("step") == 1)
        waiting = bench.submit(2, prompt=PROMPT, request_id="waiting")
        started.leave()
        waiting.leave()
    for name in ("started", "waiting"):
        (record,) = output.about(name)
        assert (record["level"], record["outcome"]) == ("INFO", "cancelled")
        assert record["total_seconds"] >= 0 and "denoise_seconds" not in record


@pytest.mark.parametrize("stage", ["encode", "step", "check_finite", "decode"])
async def test_a_failed_image_says_why(output: Output, stage: str) -> None:
    async with Bench(batch=2) as bench:
        bench.engine.fail(stage, ValueError("broken"))
        await bench.submit(1, prompt=PROMPT, request_id="one").ended()
        bench.engine.fail(stage, RequestError(Reason.NON_FINITE, "broken"))
        await bench.submit(1, prompt=PROMPT, request_id="two").ended()
    why, end = output.about("one")
    assert why["level"] == "ERROR" and "ValueError: broken" in why["exception"]
    assert (end["level"], end["outcome"], end["reason"]) == ("INFO", "failed", "INTERNAL")
    why, end = output.about("two")
    assert (why["level"], why["message"]) == ("WARNING", "NON_FINITE: broken")
    assert (end["level"], end["outcome"], end["reason"]) == ("INFO", "failed", "NON_FINITE")
    assert PROMPT not in output.text


async def test_a_failed_bind_is_logged_with_its_requests_id(
    output: Output,
) -> None:
    async with Bench() as bench:
        bench.binder.fail(ValueError("broken"))
        await bench.submit(1, adapters=(AdapterWeight("a", 1.0),), request_id="one").ended()
        assert bench.scheduler.queue_length == 0
    why, end = output.about("one")
    assert why["message"] == "binding adapters failed" and "ValueError" in why["exception"]
    assert end["outcome"] == "failed"


async def test_records_of_a_bind_carry_its_requests_id(
    output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another task's call may make the scheduler bind; its id does not appear."""
    async with Bench() as bench:
        try_bind, bind = bench.binder.try_bind, bench.binder.bind

        def trying(adapters: Any) -> Any:
            logging.getLogger("binder").info("trying")
            return try_bind(adapters)

        async def binding(adapters: Any) -> Any:
            logging.getLogger("binder").info("binding")
            return await bind(adapters)

        monkeypatch.setattr(bench.binder, "try_bind", trying)
        monkeypatch.setattr(bench.binder, "bind", binding)
        bench.binder.hold()
        logs.REQUEST_ID.set("another task")
        clients = [bench.submit(1, request_id="one"), bench.submit(2, request_id="two")]
        await until(lambda: len(bench.binder.requested) == 1)
        bench.binder.free()
        for client in clients:
            await client.ended()
    assert output.about("another task") == []
    for name in ("one", "two"):
        said = [r["message"] for r in output.about(name) if r["logger"] == "binder"]
        assert said and said[0] == "trying"
    assert "binding" in [r["message"] for r in output.about("one")]


@pytest.mark.parametrize("allowed", [False, True])
async def test_prompts_are_logged_only_if_the_operator_allows_it(
    output: Output, allowed: bool
) -> None:
    async with Bench(log_prompts=allowed) as bench:
        await bench.submit(1, prompt=PROMPT, request_id="one").ended()
        bench.engine.fail("decode", ValueError("broken"))
        await bench.submit(1, prompt=PROMPT, request_id="two").ended()
    assert (PROMPT in output.text) is allowed
    assert [r.get("prompt") for r in (output.about("one")[0], output.about("two")[1])] == (
        [PROMPT if allowed else None] * 2
    )
