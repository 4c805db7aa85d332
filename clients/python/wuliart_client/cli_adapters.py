"""`wuliart adapters` lists the adapters, `wuliart watch` prints their changes."""

from __future__ import annotations

import argparse
import time
from datetime import datetime
from typing import Final

from rich import box
from rich.filesize import decimal
from rich.table import Table

from wuliart_client._adapters import Adapter, AdapterEvent, AdapterEventKind, AdapterState
from wuliart_client._client import Client
from wuliart_client._exceptions import Cancelled, Unavailable
from wuliart_client.cli_terminal import Terminal, as_json, visible
from wuliart_process.standard_streams import end_when_unread

HASH_DIGITS: Final = 12
"""Leading digits of the SHA-256, of 64; enough to distinguish versions by eye."""

HEADINGS: Final = (
    "name", "title", "state", "slot", "since", "rank", "size", "trigger words", "thumbnail", "hash",
    "notes",
)  # fmt: skip
"""Columns of `wuliart adapters`. Only a resident adapter has a slot and a time; `notes` say why
the file is not used, or what of it is not."""

RECONNECT_SECONDS: Final = 1.0
"""Delay between attempts to resume a watch, in addition to the channel's own retries."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `wuliart adapters` and `wuliart watch`."""
    parser.add_argument("--json", action="store_true", help="print one line of JSON for each")


def run_adapters(client: Client, arguments: argparse.Namespace, terminal: Terminal) -> None:
    """Print all adapters."""
    adapters = client.adapters()
    if arguments.json:
        for adapter in adapters:
            terminal.line(as_json(adapter))
    elif adapters:
        terminal.table(adapter_table(adapters))
    else:
        terminal.note("there are no adapters: copy a .safetensors file into the LoRA folder")


def adapter_table(adapters: list[Adapter]) -> Table:
    """Returns a table with one row per adapter."""
    table = Table(box=box.SIMPLE_HEAD)
    for heading in HEADINGS:
        right = heading in ("slot", "rank", "size")
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    for adapter in adapters:
        table.add_row(
            visible(adapter.name),
            visible(adapter.title),
            adapter.state.value + (", pinned" if adapter.pinned else ""),
            "" if adapter.slot is None else str(adapter.slot),
            local_time(adapter.resident_since),
            str(adapter.rank or ""),
            decimal(adapter.size_bytes),
            visible(", ".join(adapter.trigger_words)),
            "yes" if adapter.thumbnail_hash else "",
            visible(adapter.content_hash[:HASH_DIGITS]),
            visible("; ".join(filter(None, (why(adapter), *adapter.notes)))),
        )
    return table


def run_watch(client: Client, arguments: argparse.Namespace, terminal: Terminal) -> None:
    """Print changes until interrupted; goes on after the last one when the connection drops.

    Raises `Unavailable` only if the server could not be reached to begin with.
    """
    end_when_unread()
    token: str | None = None
    while True:
        try:
            with client.watch(token) as events:
                for event in events:
                    token = event.resume_token
                    show(event, arguments, terminal)
        except (Unavailable, Cancelled) as error:
            if token is None:
                raise
            terminal.note(f"{error}; will continue when it is back")
        time.sleep(RECONNECT_SECONDS)


def show(event: AdapterEvent, arguments: argparse.Namespace, terminal: Terminal) -> None:
    """Print one event: a line of JSON, or a line for each adapter in it."""
    if arguments.json:
        terminal.line(as_json(event))
        return
    if event.kind is AdapterEventKind.SNAPSHOT and not event.adapters:
        terminal.line("snapshot  no adapters")
    for adapter in event.adapters:
        terminal.line(f"{event.kind.value:<9} {adapter.name}  {describe(adapter)}")


def describe(adapter: Adapter) -> str:
    """Describes an adapter's state in a few words."""
    reason = why(adapter)
    if reason and not adapter.usable:
        return f"{adapter.state.value}: {reason}"
    facts = [adapter.state.value]
    if adapter.slot is not None:
        facts.append(f"slot {adapter.slot} since {local_time(adapter.resident_since)}")
    if adapter.pinned:
        facts.append("pinned")
    digits = adapter.content_hash[:HASH_DIGITS]
    if adapter.rank:
        facts.append(f"rank {adapter.rank}")
    line = ", ".join([*facts, decimal(adapter.size_bytes), digits])
    return "; ".join(filter(None, (line, reason, *adapter.notes)))


def why(adapter: Adapter) -> str:
    """Returns why the adapter, or its file's newest content, is not in use; otherwise empty."""
    reasons = [adapter.refusal_reason]
    if adapter.waiting_reason:
        newer = "" if adapter.state is AdapterState.WAITING else "a newer version is not finished: "
        reasons.append(f"{newer}{adapter.waiting_reason}")
    return "; ".join(filter(None, reasons))


def local_time(moment: datetime | None) -> str:
    """Formats local time to the second; empty for None."""
    return "" if moment is None else f"{moment.astimezone():%Y-%m-%d %H:%M:%S}"
