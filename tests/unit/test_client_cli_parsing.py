"""Tests of the command's argument parsing, and of its escaping of terminal control sequences."""

from __future__ import annotations

import dataclasses
import json
from datetime import datetime

import pytest
from rich.console import Console

from wuliart_client import Adapter, AdapterState, AdapterWeight
from wuliart_client.cli import build_parser, main
from wuliart_client.cli_adapters import adapter_table, describe
from wuliart_client.cli_generate import parse_adapter
from wuliart_client.cli_terminal import as_json, visible


@pytest.mark.parametrize(
    ("text", "adapter"),
    [
        ("ink", AdapterWeight("ink")),
        ("ink:0.8", AdapterWeight("ink", 0.8)),
        ("ink:-4", AdapterWeight("ink", -4)),
        ("ink:.5", AdapterWeight("ink", 0.5)),
        ("ink:1e-1", AdapterWeight("ink", 0.1)),
        ("a:b", AdapterWeight("a:b")),
        ("a:b:0.5", AdapterWeight("a:b", 0.5)),
        ("ink:", AdapterWeight("ink:")),
        ("ink:nan", AdapterWeight("ink:nan")),
        ("水墨/old:1.5", AdapterWeight("水墨/old", 1.5)),
    ],
)
def test_a_weight_is_a_number_after_the_last_colon(text, adapter):
    assert parse_adapter(text) == adapter


@pytest.mark.parametrize("arguments", [["--target", "h:1", "info"], ["info", "--target", "h:1"]])
def test_target_may_stand_on_either_side(arguments):
    assert build_parser().parse_args(arguments).target == "h:1"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["generate"],
        ["generate", "x", "--steps", "9"],
        ["generate", "x", "--seed", "-1"],
        ["generate", "x", "--seed=-1"],
        ["generate", "x", "--seed", str(2**64)],
        ["generate", "x", "--timeout", "0"],
        ["generate", "x", "--timeout", "nan"],
    ],
)
def test_wrong_usage_is_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: wuliart" in capsys.readouterr().err


def test_what_steers_a_terminal_becomes_visible():
    assert visible("a\x1b[31m\r\n\x07\x9b\u202e\udc80") == r"a\x1b[31m\r\n\x07\x9b\u202e\udc80"
    assert visible("水墨 [bold]\u3000é") == "水墨 [bold]\u3000é"


def test_a_table_takes_neither_markup_nor_escapes_from_a_server():
    hostile = Adapter(
        "[red]x[/red]\x1b]0;owned\x07", "[/]", (":smile:",), 4, 10, "f" * 64,
        AdapterState.REFUSED, "bad\nline", 0, None,
    )  # fmt: skip
    console = Console(width=400, markup=False, emoji=False, highlight=False, no_color=True)
    with console.capture() as capture:
        console.print(adapter_table([hostile]))
    text = capture.get()
    assert r"[red]x[/red]\x1b]0;owned\x07" in text
    assert "[/]" in text
    assert ":smile:" in text
    assert r"bad\nline" in text
    assert "\x1b]" not in text


def test_a_watched_adapter_says_where_it_is_and_that_it_stays():
    since = datetime(2026, 5, 21, 14, 23, 5).astimezone()
    adapter = Adapter("ink", "Ink", (), 4, 2_000_000, "f" * 64, AdapterState.RESIDENT, "", 9, since)
    said = describe(dataclasses.replace(adapter, slot=0, pinned=True))
    assert said == (
        "resident, slot 0 since 2026-05-21 14:23:05, pinned, rank 4, 2.0 MB, ffffffffffff"
    )
    absent = dataclasses.replace(adapter, state=AdapterState.AVAILABLE, resident_since=None)
    assert describe(absent) == "available, rank 4, 2.0 MB, ffffffffffff"


def test_json_is_one_line_of_ascii():
    line = as_json({"name": "水墨\n\x1b\x7f"})
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line) == {"name": "水墨\n\x1b\x7f"}
