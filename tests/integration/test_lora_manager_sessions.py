"""The manager's process against a server that comes, goes, fails, and asks for adapters."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.support.fake_segment_server import FakeSegmentServer, ManagerProcess, lora_bytes
from wuliart_contract.status import Reason

RESCAN = ("--rescan-seconds", "0.3")


def put(loras: Path, name: str, seed: int, seconds_old: float = 60) -> None:
    """A file that looks as if it had been lying there for a while."""
    path = loras / f"{name}.safetensors"
    path.write_bytes(lora_bytes(seed))
    then = path.stat().st_mtime - seconds_old
    os.utime(path, (then, then))


def manager(server: FakeSegmentServer, loras: Path, *options: str) -> ManagerProcess:
    return ManagerProcess(loras, server.runtime_dir, *RESCAN, *options)


async def test_at_start_the_newest_files_are_resident_and_all_are_listed(
    server: FakeSegmentServer, loras: Path
) -> None:
    for n in range(5):
        put(loras, f"adapter{n}", seed=n, seconds_old=60 - n)
    async with manager(server, loras):
        await server.until_judged()
        assert server.reports[-1] == [f"adapter{n}" for n in range(5)]
        assert [name for name, _ in server.commits] == ["adapter4", "adapter3"]
        assert all(not entry.refusal_reason for entry in server.catalog.values())
        assert server.catalog["adapter0"].rank == 4


async def test_a_cold_adapter_is_promoted_on_request(
    server: FakeSegmentServer, loras: Path
) -> None:
    for n in range(3):
        put(loras, f"adapter{n}", seed=n, seconds_old=60 - n)
    async with manager(server, loras) as process:
        await server.until_judged()
        assert "adapter0" not in server.resident
        server.promote("adapter0")
        await server.until(lambda: "adapter0" in server.resident)
        assert len(server.resident) == 2
        await server.until(lambda: process.said('promoted "adapter0"'))


async def test_a_promotion_of_what_is_not_there_brings_a_new_report(
    server: FakeSegmentServer, loras: Path
) -> None:
    async with manager(server, loras):
        await server.until(lambda: server.reports)
        server.promote("nothing")
        await server.until(lambda: len(server.reports) == 2)


async def test_a_dropped_file_evicts_and_a_burst_leaves_the_newest(
    server: FakeSegmentServer, loras: Path
) -> None:
    for n in range(2):
        put(loras, f"adapter{n}", seed=n)
    async with manager(server, loras):
        await server.until(lambda: len(server.resident) == 2)
        (loras / "new.safetensors").write_bytes(lora_bytes(9))
        await server.until(lambda: "new" in server.resident and len(server.reports[-1]) == 3)
        for n in range(6):
            (loras / f"burst{n}.safetensors").write_bytes(lora_bytes(20 + n))
        await server.until(lambda: len(server.reports[-1]) == 9)
        assert "burst5" in server.resident
        assert len(server.resident) == 2


async def test_a_restarted_server_gets_everything_again(
    server: FakeSegmentServer, loras: Path
) -> None:
    put(loras, "ink", 1)
    put(loras, "oil", 2)
    put(loras, "cold", 3, seconds_old=600)
    async with manager(server, loras) as process:
        # What is being read when a server stops is the first that the next one gets.
        await server.until_judged()
        for _ in range(2):
            await server.stop()
            put(loras, "ink", 7, seconds_old=1)
            await asyncio.sleep(0.5)
            await server.start()
            await server.until(lambda: server.resident.keys() == {"ink", "oil"})
            await server.until(lambda: server.reports[-1:] == [["cold", "ink", "oil"]])
        assert process.process.returncode is None


async def test_a_file_that_changed_unseen_while_the_server_was_away_keeps_its_place(
    server: FakeSegmentServer, loras: Path
) -> None:
    put(loras, "ink", 1, seconds_old=60)
    put(loras, "oil", 2, seconds_old=70)
    put(loras, "cold", 3, seconds_old=600)
    # It looks so seldom that the server is back before the change has been seen.
    async with manager(server, loras, "--poll", "--rescan-seconds", "2") as process:
        await server.until_judged()
        await server.stop()
        put(loras, "ink", 7, seconds_old=1)
        await server.start()
        await server.until(lambda: "oil" in server.resident)
        await server.until(lambda: process.said('replaced "ink"'))
        assert server.resident.keys() == {"ink", "oil"}


async def test_a_manager_that_starts_first_waits_for_the_server(
    server: FakeSegmentServer, loras: Path
) -> None:
    await server.stop()
    put(loras, "ink", 1)
    async with manager(server, loras) as process:
        await server.until(lambda: process.said("not attached"))
        await server.start()
        await server.until(lambda: "ink" in server.resident)


async def test_a_killed_manager_is_succeeded_without_taking_names_away(
    server: FakeSegmentServer, loras: Path
) -> None:
    for n in range(3):
        put(loras, f"adapter{n}", seed=n, seconds_old=60 - n)
    async with manager(server, loras) as first:
        await server.until_judged()
        assert server.resident.keys() == {"adapter1", "adapter2"}
        first.process.send_signal(signal.SIGKILL)
        await server.until(lambda: server.writer_gone.is_set() and not server.session)
    (loras / "adapter2.safetensors").unlink()
    reports = len(server.reports)
    async with manager(server, loras):
        await server.until(lambda: len(server.reports) > reports)
        await server.until(lambda: server.reports[-1] == ["adapter0", "adapter1"])
        for listed, pending in zip(server.reports[reports:], server.pending[reports:], strict=True):
            assert sorted(listed + pending) == ["adapter0", "adapter1"]
        assert "adapter1" in server.resident and "adapter2" not in server.resident


async def test_a_second_manager_is_refused_and_takes_over_later(
    server: FakeSegmentServer, loras: Path
) -> None:
    put(loras, "ink", 1)
    async with manager(server, loras) as first, manager(server, loras) as second:
        await server.until(lambda: server.reports and server.refused_sessions > 2)
        loser, winner = (second, first) if second.said("another LoRA") else (first, second)
        assert sum("another LoRA manager is attached" in line for line in loser.log) == 1
        assert loser.process.returncode is None
        reports = len(server.reports)
        winner.process.terminate()
        assert await winner.process.wait() == 0
        await server.until(lambda: len(server.reports) > reports)


async def test_a_lost_reply_a_flipped_byte_and_a_lost_reservation_are_survived(
    server: FakeSegmentServer, loras: Path
) -> None:
    async with manager(server, loras) as process:
        await server.until(lambda: server.reports)
        server.lost_commit_replies = 1
        (loras / "ink.safetensors").write_bytes(lora_bytes(1))
        await server.until(lambda: ["ink"] in server.reports)
        assert len(server.commits) == 1, "the reply was lost, not the commit"
        server.corrupt_next = True
        (loras / "oil.safetensors").write_bytes(lora_bytes(2))
        await server.until(lambda: "oil" in server.resident)
        assert len(server.abandoned) == 1
        server.fail_commits = [Reason.RESERVATION_LOST]
        (loras / "ink.safetensors").write_bytes(lora_bytes(3))
        await server.until(lambda: len(server.commits) == 3)
        assert len(server.abandoned) == 2
        assert not server.reservations
        server.fail_commits = [Reason.CHECKSUM_MISMATCH] * 2
        (loras / "late.safetensors").write_bytes(lora_bytes(4))
        await server.until(lambda: "late" in server.reports[-1])
        assert "late" not in server.resident and not server.reservations
        await server.until(lambda: process.said('"late" could not be written'))


async def test_a_lost_session_is_opened_again_and_the_file_still_gets_in(
    server: FakeSegmentServer, loras: Path
) -> None:
    async with manager(server, loras) as process:
        await server.until(lambda: server.reports)
        server.fail_commits = [Reason.SESSION_LOST]
        (loras / "ink.safetensors").write_bytes(lora_bytes(1))
        await server.until(lambda: "ink" in server.resident)
        await server.until(lambda: process.said("session lost"))


async def test_a_lease_that_runs_out_is_not_written_under(
    server: FakeSegmentServer, loras: Path
) -> None:
    async with manager(server, loras) as process:
        await server.until(lambda: server.reports)
        server.lease_ms = 0
        (loras / "ink.safetensors").write_bytes(lora_bytes(1))
        await server.until(lambda: process.said("the lease of 0 ms ran out"))
        await server.until(lambda: len(server.abandoned) == 2)
        assert not server.commits


async def test_different_versions_are_reported_once_and_retried(
    server: FakeSegmentServer, loras: Path
) -> None:
    server.layout_hash = "0" * 64
    put(loras, "ink", 1)
    async with manager(server, loras) as process:
        await server.until(lambda: process.said("of different versions"))
        server.layout_hash = server.layout.hash
        await server.until(lambda: "ink" in server.resident)
        assert sum("of different versions" in line for line in process.log) == 1


async def test_a_file_being_written_at_the_start_is_waited_for(
    server: FakeSegmentServer, loras: Path
) -> None:
    data = lora_bytes(1)
    with (loras / "ink.safetensors").open("wb", buffering=0) as file:
        file.write(data[:1000])
        async with manager(server, loras) as process:
            await server.until(lambda: server.reports)
            assert (server.reports[0], server.pending[0]) == ([], ["ink"])
            file.write(data[1000:])
            file.close()
            await server.until(lambda: "ink" in server.resident)
            assert not process.said("refused")


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["--loras", __file__], "is a file"),
        (["--rescan-seconds", "0"], "from 0.05 to 3600"),
        (["--max-file-bytes", "0"], "at least 1"),
        (["--log-level", "loud"], "invalid choice"),
        (["--nonsense"], "unrecognized arguments: --nonsense; see --help"),
    ],
)
async def test_bad_arguments_end_it_at_once(
    arguments: list[str], answer: str, tmp_path: Path
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "lora_manager", *arguments,
        stderr=asyncio.subprocess.PIPE, cwd=tmp_path,
    )  # fmt: skip
    _, stderr = await process.communicate()
    assert process.returncode == 2
    (line,) = stderr.decode().splitlines()
    assert answer in line
