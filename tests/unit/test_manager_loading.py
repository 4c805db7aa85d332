"""One file read once and judged; the order of jobs; what configuration says."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from lora_manager import loading
from lora_manager.admitted_file import FileChangedError
from lora_manager.catalog import Entry, FileCatalog
from lora_manager.config import parse_config
from lora_manager.directory import inspect
from lora_manager.load_queue import LoadQueue, Urgency
from lora_manager.loading import Loaded, ModelShape, load, read_once
from lora_manager.lora_file import LoraFile, Stamp
from tests.support.fake_segment_server import PARAMETERS, lora_bytes
from wuliart_lora.slot_layout import SegmentLayout
from wuliart_process.sockets import default_runtime_dir

SHAPE = ModelShape.of(
    SegmentLayout(PARAMETERS),
    np.zeros((PARAMETERS.modulation_rows, PARAMETERS.width), np.float32),
)


def put(folder: Path, data: bytes, name: str = "ink.safetensors") -> LoraFile:
    (folder / name).write_bytes(data)
    found = inspect(folder, name)
    assert found is not None
    return found


def judge(found: LoraFile, known: Entry | None = None, *, want_image: bool = True) -> Loaded:
    return load(found, known, SHAPE, 1 << 20, want_image=want_image)


def test_a_good_file_becomes_an_entry_and_an_image(tmp_path: Path) -> None:
    data = lora_bytes(1, rank=4, title="Ink")
    loaded = judge(put(tmp_path, data))
    assert loaded.entry.content_hash == hashlib.sha256(data).hexdigest()
    assert (loaded.entry.title, loaded.entry.rank, loaded.entry.refusal) == ("Ink", 4, "")
    assert loaded.image is not None and loaded.image.packed_rank == 4
    assert judge(put(tmp_path, data), want_image=False).image is None


def test_the_same_content_is_not_parsed_again(tmp_path: Path) -> None:
    first = judge(put(tmp_path, lora_bytes(1, title="Ink"))).entry
    again = judge(put(tmp_path, lora_bytes(1, title="Ink")), first)
    assert again.unchanged and again.image is None and again.entry.is_reported_as(first)
    other = judge(put(tmp_path, lora_bytes(2, title="Ink")), first)
    assert not other.unchanged and other.image is not None


def test_a_bad_file_is_refused_with_its_hash_if_it_was_read(tmp_path: Path) -> None:
    poisoned = lora_bytes(1)[:-4] + np.float32(np.nan).tobytes()
    entry = judge(put(tmp_path, poisoned)).entry
    assert "not a number" in entry.refusal and len(entry.content_hash) == 64
    entry = judge(put(tmp_path, save({"other.lora_A.weight": np.ones((1, 1), np.float32)}))).entry
    assert "not understood" in entry.refusal and entry.content_hash == ""
    assert "limit" in judge(put(tmp_path, b"\0" * ((1 << 20) + 1))).entry.refusal


def test_a_failure_of_the_parser_refuses_the_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("what is this")

    monkeypatch.setattr(loading, "plan_lora", fail)
    assert "RuntimeError: what is this" in judge(put(tmp_path, lora_bytes(1))).entry.refusal


@pytest.mark.parametrize("step", ["read_bytes", "plan_lora", "_read_into", "build_image"])
def test_want_of_memory_refuses_the_file_alone_and_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    data = lora_bytes(1)
    with monkeypatch.context() as patch:
        patch.setattr(loading, step, fail)
        entry = judge(put(tmp_path, data)).entry
    assert f"not enough memory to read its {len(data):,} bytes" in entry.refusal
    assert not judge(put(tmp_path, data), entry).entry.refusal, "touched when there is memory"


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (b"", "begins with zeros"),
        (b"PK\x03\x04" + b"1" * 60, "a zip archive"),
        (b"\x80\x02}q\x00", "a pickle"),
        ((1 << 40).to_bytes(8, "little") + b"{", "a header of 1,099,511,627,776 bytes"),
        ((100).to_bytes(8, "little") + b"[", "something else"),
    ],
)
def test_a_huge_file_that_is_none_is_refused_after_its_first_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: bytes, reason: str
) -> None:
    found = put(tmp_path, head)
    os.truncate(found.path, 2 << 30)
    sparse = inspect(tmp_path, found.relative)
    assert sparse is not None
    counts, read = [], loading.read_bytes
    monkeypatch.setattr(loading, "read_bytes", lambda f, n: counts.append(n) or read(f, n))
    entry = load(sparse, None, SHAPE, 2 << 30, want_image=True).entry
    assert reason in entry.refusal
    assert sum(counts) < 1000


Q = "transformer.transformer_blocks.0.attn.to_q"
WIDTH = PARAMETERS.width
HUGE = 2 << 30


def entry_of(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def factors(rank: int, data: int, dtype: str = "F32") -> dict[str, object]:
    """Header entries of one module's two factors, which fill `data` bytes."""
    half = data // 2
    return {
        f"{Q}.lora_A.weight": entry_of([rank, WIDTH], 0, half, dtype),
        f"{Q}.lora_B.weight": entry_of([WIDTH, rank], half, 2 * half, dtype),
    }


HEADER = 4096
"""Bytes before the data in the files made here."""

REST = HUGE - HEADER

CONTRADICTIONS = {
    "bytes after the last tensor": (factors(4, 8 * WIDTH * 4), "bytes follow the last tensor"),
    "span and shape": (factors(4, REST), "takes 512 bytes, its data_offsets span"),
    "truncated": (factors(1 << 28, 1 << 36), "truncated: 68,719,480,832 bytes expected"),
    "gap": ({"x": entry_of([4], 0, 16), "y": entry_of([4], REST - 16, REST)}, "leave a gap"),
    "overlap": ({"x": entry_of([4], 0, 16), "y": entry_of([4], 8, 24)}, "overlap"),
    "no float": (factors(REST // (16 * WIDTH), REST, "F64"), "element type F64; convert"),
    "a checkpoint": ({"x.weight": entry_of([REST // 4], 0, REST)}, "names are not understood"),
    "rank": (factors(REST // (8 * WIDTH), REST), "this server holds up to 8"),
}
"""Headers of files of 2 GiB, which consist of nothing else, and how they are refused."""


@pytest.mark.parametrize("kind", CONTRADICTIONS)
def test_a_huge_file_that_its_header_refuses_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    header, reason = CONTRADICTIONS[kind]
    raw = json.dumps(header).encode()
    raw += b" " * (HEADER - 8 - len(raw))
    found = put(tmp_path, len(raw).to_bytes(8, "little") + raw)
    os.truncate(found.path, HUGE)
    sparse = inspect(tmp_path, found.relative)
    assert sparse is not None
    counts, read = [], loading.read_bytes
    monkeypatch.setattr(loading, "read_bytes", lambda f, n: counts.append(n) or read(f, n))
    monkeypatch.setattr(loading, "_read_into", lambda *_: pytest.fail("the data was read"))
    entry = load(sparse, None, SHAPE, HUGE, want_image=True).entry
    assert reason in entry.refusal
    assert sum(counts) == HEADER


def test_the_error_for_a_header_longer_than_its_file_gives_both_sizes(tmp_path: Path) -> None:
    found = put(tmp_path, (5000).to_bytes(8, "little") + b"{" + b" " * 991)
    assert "at least 5,008 bytes expected, 1,000 found" in judge(found).entry.refusal


def read_whole(found: LoraFile) -> memoryview:
    pieces: list[memoryview] = []
    _, data = read_once(found, SHAPE, pieces.append)
    assert b"".join(pieces) == data
    return data


def test_a_file_is_read_only_as_it_was_admitted(tmp_path: Path) -> None:
    data = lora_bytes(1)
    found = put(tmp_path, data)
    assert read_whole(found) == data
    with found.path.open("ab") as file:
        file.write(b"2")
    with pytest.raises(FileChangedError):
        read_whole(found)
    os.replace(put(tmp_path, data, "b.safetensors").path, found.path)  # noqa: PTH105
    with pytest.raises(FileChangedError):
        read_whole(found)
    found.path.unlink()
    with pytest.raises(FileChangedError):
        read_whole(found)


def test_other_content_of_the_same_size_and_mtime_is_another_version(tmp_path: Path) -> None:
    found = put(tmp_path, lora_bytes(1))
    with found.path.open("r+b") as file:
        file.write(lora_bytes(2))
    os.utime(found.path, ns=(0, found.stamp.mtime_ns))
    again = inspect(tmp_path, found.relative)
    assert again is not None and again.stamp != found.stamp
    assert again.stamp.may_be_renamed(found.stamp)
    with pytest.raises(FileChangedError):
        read_whole(found)


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_a_folder_or_link_in_the_files_place_is_a_change_and_leaks_nothing(
    tmp_path: Path, kind: str
) -> None:
    found = put(tmp_path, lora_bytes(1))
    if kind == "folder":
        found.path.unlink()
        found.path.mkdir()
    else:
        found.path.rename(tmp_path / "elsewhere")
        found.path.symlink_to("elsewhere")
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(3):
        with pytest.raises(FileChangedError):
            read_whole(found)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_a_folder_that_becomes_a_link_leads_nowhere(tmp_path: Path) -> None:
    """A link that is swapped in between two looks would get around the rule for links."""
    root, outside = tmp_path / "loras", tmp_path / "private"
    for folder in (root / "a", outside):
        folder.mkdir(parents=True)
    found = put(root, lora_bytes(1), "a/ink.safetensors")
    secret = outside / "ink.safetensors"
    secret.write_bytes(lora_bytes(2))
    # As if the swap had come between resolving the path and asking for its stamp.
    swapped = replace(found, stamp=Stamp.of(secret.stat()))
    (root / "a").rename(tmp_path / "aside")
    (root / "a").symlink_to(outside)
    with pytest.raises(FileChangedError):
        read_whole(swapped)


def test_a_pipe_in_the_files_place_does_not_hang(tmp_path: Path) -> None:
    found = put(tmp_path, b"1" * 100)
    found.path.unlink()
    os.mkfifo(found.path)
    with pytest.raises(FileChangedError):
        read_whole(found)


def test_a_write_during_the_read_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = put(tmp_path, lora_bytes(1))
    stat, calls = os.fstat, []

    def writing(descriptor: int) -> os.stat_result:
        if calls:
            with found.path.open("r+b") as file:
                file.write(b"2")
            os.utime(found.path, ns=(0, found.stamp.mtime_ns + 1))
        calls.append(descriptor)
        return stat(descriptor)

    monkeypatch.setattr(os, "fstat", writing)
    with pytest.raises(FileChangedError):
        read_whole(found)


def test_jobs_promotions_first_then_the_newest_change_then_the_newest_file() -> None:
    jobs = LoadQueue()
    jobs.replay("older", 1)
    jobs.replay("newer", 2)
    jobs.change("first")
    jobs.change("second", replaces=("gone",))
    jobs.promote("p")
    jobs.promote("q")
    jobs.promote("older")
    jobs.replay("second", 9)
    assert jobs.has(Urgency.REPLAY) and jobs.replaced() == {"gone"}
    order = [job.name for job in iter(jobs.pop, None)]
    assert order == ["p", "q", "older", "second", "first", "newer"]


def test_a_job_that_is_asked_for_again_keeps_what_it_replaces() -> None:
    jobs = LoadQueue()
    jobs.change("ink", replaces=("a",))
    jobs.change("ink", replaces=("b",))
    jobs.promote("ink")
    assert jobs.discard("ink") == ("a", "b")
    assert jobs.pop() is None


def test_the_catalog_knows_what_is_news(tmp_path: Path) -> None:
    catalog = FileCatalog()
    entry = judge(put(tmp_path, lora_bytes(1))).entry
    assert catalog.put(entry)
    assert not catalog.put(judge(put(tmp_path, lora_bytes(1))).entry)
    assert catalog.put(Entry(entry.found, refusal="no"))
    assert [e.refusal_reason for e in catalog.to_pb()] == ["no"]
    assert catalog.to_pb()[0].title == "ink"


def test_configuration(tmp_path: Path) -> None:
    config = parse_config(
        ["--loras", str(tmp_path / "new/loras"), "--poll"], {"WULIART_RUNTIME_DIR": "/run/here"}
    )
    assert config.loras.is_dir() and config.poll
    assert config.runtime_dir == Path("/run/here")
    assert default_runtime_dir({"XDG_RUNTIME_DIR": "/run/user/7"}) == Path("/run/user/7/wuliart")
    assert default_runtime_dir({}) == Path(f"/tmp/wuliart-{os.getuid()}")
