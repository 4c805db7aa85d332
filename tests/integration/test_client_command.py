"""The command `wuliart` as a process of its own against the fake server."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from inference_server.engine.jpeg import encode_image
from tests.support.fake_image_server import (
    DEADLINE,
    HASH,
    JPEG,
    Drop,
    Fail,
    FakeImageServer,
    Hold,
    adapter,
    adapter_use,
    change,
    completed,
    queued,
    snapshot,
    started,
    step,
    whole_image,
)
from wuliart.v1 import adapter_pb2, image_generation_pb2
from wuliart_client import read_recipe
from wuliart_contract.recipe import Recipe, RecipeAdapter
from wuliart_contract.status import Reason

COMMAND = [sys.executable, "-m", "wuliart_client"]
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "COLUMNS")},
    "PYTHONUNBUFFERED": "1",
}


@pytest.fixture
def fake():
    with FakeImageServer() as server:
        yield server


@pytest.fixture
def wuliart(fake, tmp_path):
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *arguments],
            env={**ENVIRONMENT, "WULIART_TARGET": fake.target},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def assert_one_line_error(result: subprocess.CompletedProcess[str], text: str) -> None:
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("wuliart: ")
    assert text in result.stderr


def test_generate_plain(fake, wuliart, tmp_path):
    result = wuliart("generate", "p", "--seed", "7", "--adapter", "ink:0.8", "--adapter", "a:b")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[:-1] == [
        "Queued (2 ahead)", "Queued (1 ahead)",
        "Step 1/4", "Step 2/4", "Step 3/4", "Step 4/4", "Done", "seed 7",
    ]  # fmt: skip
    path = re.fullmatch(r"saved (outputs/\d{8}_\d{6}\.jpg)", lines[-1])[1]
    assert (tmp_path / path).read_bytes() == JPEG
    used = [(one.name, round(one.weight, 3)) for one in fake.requests[0].adapters]
    assert used == [("ink", 0.8), ("a:b", 1.0)]


def test_generate_json_keeps_stdout_clean(wuliart, tmp_path):
    folder = tmp_path / ("深" * 40)
    result = wuliart("generate", "p", "--json", "--out", str(folder))
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("\n") == 1
    report = json.loads(result.stdout)
    assert Path(report["path"]).read_bytes() == JPEG
    assert Path(report["path"]).parent == folder
    assert (report["seed"], report["steps"]) == (7, 4)
    assert report["adapters"][0]["name"] == "ink"
    assert report["timings"]["denoise"] == 1.5
    assert "Step 4/4" in result.stderr


def test_generate_previews_replace_each_other(fake, wuliart, tmp_path):
    for content in (b"old", b"new"):
        fake.images.append([started(), step(1, 2, content), step(2, 2, content), completed()])
        assert wuliart("generate", "p", "--preview-dir", "previews").returncode == 0
    assert fake.requests[0].preview
    previews = sorted((tmp_path / "previews").iterdir())
    assert [path.name for path in previews] == ["step-1.jpg", "step-2.jpg"]
    assert {path.read_bytes() for path in previews} == {b"new"}
    assert len(list((tmp_path / "outputs").iterdir())) == 2


def test_a_truncated_prompt_is_reported(fake, wuliart):
    fake.images.append([started(ignored=9), step(1, 1), completed()])
    assert "last 9 tokens were not read" in wuliart("generate", "p").stderr


def test_a_adapter_that_was_left_out_is_a_warning(fake, wuliart):
    left_out = {"name": "stone", "reason": "ADAPTER_NOT_FOUND", "message": "no\x1b\nstone"}
    fake.default = [started(skipped_adapters=[left_out]), step(1, 1), completed()]
    result = wuliart("generate", "p")
    assert result.returncode == 0
    assert result.stderr == "wuliart: warning: an adapter was left out: no\\x1b stone\n"
    assert json.loads(wuliart("generate", "p", "--json").stdout)["skipped_adapters"] == [left_out]


def test_a_failure_is_one_line_and_exit_code_1(fake, wuliart, tmp_path):
    fake.images.append(
        [Fail(Reason.INVALID_REQUEST, violations=(("prompt", "a\n\x1b[31mb"), ("steps", "[red]")))]
    )
    result = wuliart("generate", "p")
    assert_one_line_error(result, r"prompt: a \x1b[31mb; steps: [red]")
    assert list((tmp_path / "outputs").iterdir()) == []


def test_no_server_is_one_line_and_exit_code_1(fake, wuliart):
    fake.stop()
    for command in (["generate", "p"], ["adapters"], ["watch"], ["info"]):
        assert_one_line_error(wuliart(*command), "start it with wuliart-server")


def test_a_folder_that_cannot_be_made_costs_no_image(fake, wuliart, tmp_path):
    (tmp_path / "file").touch()
    assert_one_line_error(wuliart("generate", "p", "--out", "file/x"), "cannot write file/x")
    assert fake.requests == []


def test_timeout(fake, wuliart):
    fake.images.append([Hold()])
    assert_one_line_error(wuliart("generate", "p", "--timeout", "1"), "within 1 s")


def test_wrong_usage_is_exit_code_2(wuliart):
    assert wuliart("generate", "p", "--steps", "9").returncode == 2
    result = wuliart("generate")
    assert result.returncode == 2
    assert "a prompt, or --like FILE" in result.stderr


@pytest.fixture
def drawn(tmp_path):
    """An image that says how it was generated."""
    adapters = (RecipeAdapter("ink", 0.8, HASH), RecipeAdapter("neon", 1.0, "cd" * 32))
    text = Recipe(
        '一只狐狸, "red"', 2**64 - 1, 3, adapters, "embedded", "lightning", "0.1.0"
    ).text()
    path = tmp_path / "drawn.jpg"
    path.write_bytes(encode_image(torch.zeros(16, 16, 3, dtype=torch.uint8), text))
    return path


def test_info_of_a_image_needs_no_server(fake, wuliart, drawn):
    fake.stop()
    result = wuliart("info", str(drawn))
    assert result.returncode == 0, result.stderr
    for text in (
        '一只狐狸, "red"',
        str(2**64 - 1),
        "ink:0.8",
        HASH[:12],
        "embedded",
        "lightning",
        "0.1.0",
    ):
        assert text in result.stdout
    report = json.loads(wuliart("info", str(drawn), "--json").stdout)
    assert report["adapters"][1] == {"name": "neon", "weight": 1.0, "content_hash": "cd" * 32}
    plain = drawn.with_name("plain.jpg")
    plain.write_bytes(JPEG)
    assert_one_line_error(wuliart("info", str(plain)), f"{plain}: it is not a complete JPEG file")
    assert_one_line_error(wuliart("info", "gone.jpg"), "cannot read gone.jpg: No such file")


def test_like_asks_for_the_same_image_again(fake, wuliart, drawn):
    model = {"name": "embedded", "schedule": "lightning"}
    fake.info = image_generation_pb2.GetServerInfoResponse(model=model)
    result = wuliart("generate", "--like", str(drawn))
    assert result.returncode == 0, result.stderr
    request = fake.requests[-1]
    assert (request.prompt, request.seed, request.steps) == ('一只狐狸, "red"', 2**64 - 1, 3)
    wanted = [(a.name, round(a.weight, 6)) for a in request.adapters]
    assert wanted == [("ink", 0.8), ("neon", 1.0)]
    assert not request.omit_recipe
    # The fake's "ink" is the very file of the recipe.
    assert result.stderr == ""
    fake.info.model.schedule = "turbo"
    warnings = wuliart("generate", "--like", str(drawn)).stderr
    assert "generated with the schedule lightning, this server has turbo" in warnings


def test_like_says_what_is_not_the_same_any_more(fake, wuliart, drawn):
    fake.info = image_generation_pb2.GetServerInfoResponse(model={"name": "Qwen-Image"})
    fake.images.append(
        [started(adapters=[adapter_use("neon", 1.0)]), *(step(n) for n in range(1, 5)), completed()]
    )
    result = wuliart("generate", "--like", str(drawn), "--json")
    assert result.returncode == 0, result.stderr
    assert "the model embedded, this server has Qwen-Image" in result.stderr
    assert "the file of the adapter neon has changed" in result.stderr
    assert json.loads(result.stdout)["seed"] == 7


def test_like_follows_an_image_that_does_not_name_its_schedule(fake, wuliart, drawn):
    text = read_recipe(drawn).text().replace("Schedule type: lightning, ", "")
    drawn.write_bytes(encode_image(torch.zeros(32, 32, 3, dtype=torch.uint8), text))
    fake.info = image_generation_pb2.GetServerInfoResponse(
        model={"name": "embedded", "schedule": "turbo"}
    )
    result = wuliart("generate", "--like", str(drawn))
    assert result.returncode == 0, result.stderr
    assert "does not name its schedule; this server has turbo" in result.stderr
    assert re.search(r"schedule +not known", wuliart("info", str(drawn)).stdout)
    assert json.loads(wuliart("info", str(drawn), "--json").stdout)["schedule"] is None


@pytest.mark.parametrize("content_hash", ["a" * 64, "b" * 64])
def test_like_compares_adapter_names_as_the_server_does(fake, wuliart, drawn, content_hash):
    """One letter may be one character in the recipe and two in the server's file name."""
    recipe = replace(read_recipe(drawn), adapters=(RecipeAdapter("caf\u00e9", 1.0, "a" * 64),))
    drawn.write_bytes(encode_image(torch.zeros(32, 32, 3, dtype=torch.uint8), recipe.text()))
    fake.info = image_generation_pb2.GetServerInfoResponse(
        model={"name": "embedded", "schedule": "lightning"}
    )
    use = adapter_use("cafe\u0301", 1.0) | {"content_hash": content_hash}
    fake.images.append([started(adapters=[use]), *(step(n) for n in range(1, 5)), completed()])
    result = wuliart("generate", "--like", str(drawn))
    assert result.returncode == 0, result.stderr
    assert ("has changed" in result.stderr) is (content_hash == "b" * 64)


def test_what_is_given_takes_the_place_of_the_recipes(fake, wuliart, drawn):
    fake.info = image_generation_pb2.GetServerInfoResponse(model={"name": "embedded"})
    result = wuliart(
        "generate",
        "--like",
        str(drawn),
        "a cat",
        "--seed",
        "1",
        "--adapter",
        "flat",
        "--no-metadata",
    )
    assert result.returncode == 0, result.stderr
    request = fake.requests[-1]
    assert (request.prompt, request.seed, request.steps) == ("a cat", 1, 3)
    assert [a.name for a in request.adapters] == ["flat"]
    assert request.omit_recipe


@pytest.mark.parametrize("script", [[queued(1), Hold()], [started(), step(1), Hold()]])
def test_ctrl_c_cancels(fake, tmp_path, script):
    fake.images.append(script)
    process = subprocess.Popen(
        [*COMMAND, "--target", fake.target, "generate", "p"],
        env=ENVIRONMENT,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert fake.holding.wait(DEADLINE)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=DEADLINE)
    assert process.returncode == 130
    assert stderr == "wuliart: interrupted\n"
    assert fake.cancelled.wait(DEADLINE)
    assert list((tmp_path / "outputs").iterdir()) == []


def test_a_terminal_gets_a_bar(fake, tmp_path):
    fake.images.append(whole_image())
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "--target", fake.target, "generate", "p"],
        env={**ENVIRONMENT, "TERM": "xterm"},
        cwd=tmp_path,
        stdout=follower,
        stderr=follower,
    )
    os.close(follower)
    shown = b""
    while True:
        try:
            shown += os.read(leader, 4096)
        except OSError:  # EIO: the process has closed its end
            break
    os.close(leader)
    assert process.wait(DEADLINE) == 0
    assert re.search("Done.*━.*0:00:0".encode(), shown)
    assert b"saved outputs/" in shown


def test_adapters(fake, wuliart):
    long_name = "folder/" * 20 + "end"
    resident = {"state": adapter_pb2.ADAPTER_STATE_RESIDENT, "slot": 3, "pinned": True}
    fake.adapters = [
        adapter(
            "ink",
            title="水墨",
            resident_since={"seconds": 1_700_000_000},
            thumbnail_hash="cd" * 32,
            notes=["ignored text encoder weights", "and\x1bmore"],
            **resident,
        ),
        adapter(
            long_name,
            title="[bold]t\x1b[2J",
            state=adapter_pb2.ADAPTER_STATE_REFUSED,
            refusal_reason="rank 999 is larger than 64",
        ),
    ]
    result = wuliart("adapters")
    assert result.returncode == 0, result.stderr
    first, second = (line for line in result.stdout.splitlines() if "abababababab" in line)
    assert re.search(r"resident, pinned +3 +2023-11-1[45] \d\d:\d\d:20 ", first)
    notes = r"yes +abababababab +ignored text encoder weights; and\\x1bmore"
    assert re.search(notes, first) and not re.search("yes", second)
    for text in ("ink", "水墨", "16", "24.3 MB", "ink wash"):
        assert text in first
    for text in (long_name, r"[bold]t\x1b[2J", "refused", "rank 999 is larger than 64"):
        assert text in second
    assert "\x1b" not in result.stdout
    entries = [json.loads(line) for line in wuliart("adapters", "--json").stdout.splitlines()]
    assert [entry["state"] for entry in entries] == ["resident", "refused"]
    assert [(entry["slot"], entry["pinned"]) for entry in entries] == [(3, True), (None, False)]
    assert entries[1]["title"] == "[bold]t\x1b[2J"
    assert [len(entry["notes"]) for entry in entries] == [2, 0]
    assert [entry["thumbnail_hash"] for entry in entries] == ["cd" * 32, ""]


def test_no_adapters_says_what_to_do(wuliart):
    assert "copy a .safetensors file" in wuliart("adapters").stderr


def test_info(fake, wuliart):
    fake.info = image_generation_pb2.GetServerInfoResponse(
        version="1.2",
        model={"name": "embedded", "embedded": True, "schedules": [{"sigmas": [1, 0.5, 0]}]},
        device={"kind": "cpu", "name": "a cpu", "dtype": "float32"},
        segments=[{"name": "adapter slots", "size_bytes": 2_000_000, "location": "host"}],
        queue_length=2,
    )
    result = wuliart("info")
    assert result.returncode == 0, result.stderr
    for text in ("1.2", "embedded", "a cpu (cpu, float32)", "1 0.5 0", "2.0 MB", "not connected"):
        assert text in result.stdout
    described = json.loads(wuliart("info", "--json").stdout)
    assert (described["queue_length"], described["model"]["description"]) == (2, None)
    assert not re.search("^(about|example)", result.stdout, re.MULTILINE)


def test_info_introduces_the_embedded_model(fake, wuliart):
    prompts = [f"a fox and {n} hens" for n in range(9)]
    introductions = [
        {"language": "en", "summary": "It knows foxes.", "example_prompts": prompts},
        {"language": "zh", "summary": "它认识狐狸。", "example_prompts": ["狐狸"]},
    ]
    fake.info = image_generation_pb2.GetServerInfoResponse(
        model={
            "name": "embedded",
            "description": {"subjects": 1, "introductions": introductions},
        }
    )
    output = wuliart("info").stdout
    assert re.search(r"^about +It knows foxes\. *$", output, re.MULTILINE)
    examples = re.findall(r"^example +(.+?) *$", output, re.MULTILINE)
    assert len(set(examples)) == 6 and set(examples) <= set(prompts)
    assert "狐狸" not in output
    description = json.loads(wuliart("info", "--json").stdout)["model"]["description"]
    assert description["subjects"] == 1
    assert description["introductions"] == introductions


def test_watch_goes_on_by_token_when_the_server_comes_back(fake):
    fake.watches.append([snapshot(1, adapter("a")), change(2, added=adapter("b")), Drop()])
    fake.watches.append([change(3, removed=adapter("a")), Hold()])
    process = subprocess.Popen(
        [*COMMAND, "watch", "--json", "--target", fake.target],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    events = [json.loads(process.stdout.readline()) for _ in range(2)]
    assert "will continue when it is back" in process.stderr.readline()
    fake.start()
    events.append(json.loads(process.stdout.readline()))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=DEADLINE)
    assert process.returncode == 130
    assert [event["kind"] for event in events] == ["snapshot", "added", "removed"]
    assert [event["adapters"][0]["name"] for event in events] == ["a", "b", "a"]
    assert fake.resume_tokens == ["", "token-2"]


def test_watch_prints_lines(fake):
    fake.watches.append(
        [
            snapshot(1),
            change(2, added=adapter("ink")),
            change(3, refused=adapter("bad", state=3, refusal_reason="it holds NaN")),
            Hold(),
        ]
    )
    process = subprocess.Popen(
        [*COMMAND, "--target", fake.target, "watch"],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    lines = [process.stdout.readline().rstrip() for _ in range(3)]
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=DEADLINE)
    assert lines == [
        "snapshot  no adapters",
        "added     ink  available, rank 16, 24.3 MB, abababababab",
        "refused   bad  refused: it holds NaN",
    ]
