"""Files of full size that are not finished: open, beside a control file, with parts unwritten."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from lora_manager import writers
from lora_manager.directory import inspect, scan
from lora_manager.lora_file import LoraFile
from lora_manager.sidecars import finished_by
from lora_manager.unfinished import Signs, signs_of
from wuliart_lora import read_header

SHIPPED = Path(__file__).parents[2] / "loras"
PATH = "transformer.transformer_blocks.0.attn.to_q"


def lora(*, zero_up: bool = False, padded: bool = False) -> bytes:
    """An adapter whose matrices are larger than a few pages: [32, 4096] and [4096, 32]."""
    rng = np.random.default_rng(1)
    down = rng.standard_normal((32, 4096), dtype=np.float32)
    up = rng.standard_normal((4096, 32), dtype=np.float32)
    if padded:
        down[20:] = 0
        up[:, 20:] = 0
    if zero_up:
        up[:] = 0
    return save({f"{PATH}.lora_A.weight": down, f"{PATH}.lora_B.weight": up})


def found_at(path: Path) -> LoraFile:
    found = inspect(path.parent, path.name)
    assert found is not None and scan(path.parent).files[found.name] == found
    assert scan(path.parent).files[found.name].control == found.control
    return found


def reason(path: Path) -> str:
    return signs_of(found_at(path)).reason


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ink.safetensors"


@pytest.fixture
def leaseless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that grants no leases, as NFS and FUSE do not."""

    def refuse(*_: object) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(writers.fcntl, "fcntl", refuse)


def test_a_file_that_is_open_for_writing_is_not_finished_however_whole_it_is(path: Path) -> None:
    with path.open("wb") as file:
        file.write(lora())
        file.flush()
        assert "open for writing" in reason(path)
    with path.open("rb"):
        assert signs_of(found_at(path)) == Signs(closed=True), "a reader is no writer"


def test_of_a_file_that_changed_or_went_nothing_is_known(path: Path) -> None:
    path.write_bytes(lora())
    before = found_at(path)
    path.write_bytes(lora() + b"1")
    assert signs_of(before) == Signs(closed=False)
    path.unlink()
    assert signs_of(before) == Signs(closed=False)


@pytest.mark.usefixtures("leaseless")
def test_without_leases_a_whole_file_is_neither_open_nor_closed(path: Path) -> None:
    path.write_bytes(lora())
    with path.open("ab"):
        assert signs_of(found_at(path)) == Signs(closed=False)


@pytest.mark.parametrize("suffix", [".aria2", ".aria2__temp", ".st", ".lftp-pget-status"])
def test_a_downloaders_control_file_beside_it_says_that_it_is_not_finished(
    path: Path, suffix: str
) -> None:
    path.write_bytes(lora())
    control = path.with_name(path.name + suffix)
    control.write_bytes(b"")
    assert f'"{control.name}" beside it' in reason(path)
    assert finished_by(f"a/{control.name}") == f"a/{path.name}"
    control.unlink()
    assert not reason(path)


@pytest.mark.parametrize(
    "partial",
    [
        "ink.safetensors.part", "ink.aBcD1234.safetensors.part", "ink.safetensors.crdownload",
        "ink.safetensors.filepart", "INK.safetensors.opdownload", "ink.safetensors.incomplete",
    ],
)  # fmt: skip
def test_an_empty_file_beside_a_partial_one_is_its_placeholder(path: Path, partial: str) -> None:
    path.write_bytes(b"")
    path.with_name(partial).write_bytes(b"")
    assert partial in reason(path)
    path.write_bytes(lora())
    assert not reason(path), "a next version is coming; this one is whole"


def test_a_downloaders_folder_is_not_listed_and_a_users_folder_is(tmp_path: Path) -> None:
    for folder in ("ink.safetensors.download", "torrent.!qB"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "ink.safetensors").write_bytes(lora())
        assert inspect(tmp_path, f"{folder}/ink.safetensors") is None
    assert not scan(tmp_path).files
    for folder in ("styles.temp", "v1.part", "x.td", "x.tmp"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "ink.safetensors").write_bytes(lora())
        assert inspect(tmp_path, f"{folder}/ink.safetensors") is not None
    (tmp_path / "link.tmp").symlink_to("styles.temp")
    assert scan(tmp_path).files.keys() == {
        "styles.temp/ink",
        "v1.part/ink",
        "x.td/ink",
        "x.tmp/ink",
    }


@pytest.mark.parametrize("hidden", [True, False])
def test_a_control_file_beside_a_links_target_says_that_the_link_is_not_finished(
    tmp_path: Path, hidden: bool
) -> None:
    folder = tmp_path / (".dl" if hidden else "dl")
    folder.mkdir()
    (folder / "c.safetensors").write_bytes(lora())
    (folder / "c.safetensors.aria2").write_bytes(b"")
    link = tmp_path / "ink.safetensors"
    link.symlink_to(folder / "c.safetensors")
    assert f'"{folder.name}/c.safetensors.aria2" beside it' in reason(link)
    (folder / "c.safetensors.aria2").unlink()
    assert not reason(link)
    (tmp_path / "ink.safetensors.aria2").write_bytes(b"")
    assert '"ink.safetensors.aria2" beside it' in reason(link)


def half_written(path: Path, at: float, reserve: Callable[[int, int], None]) -> None:
    data = lora()
    with path.open("wb", buffering=0) as file:
        reserve(file.fileno(), len(data))
        file.write(data[: int(at * len(data))])


def fallocate(descriptor: int, size: int) -> None:
    os.posix_fallocate(descriptor, 0, size)


def write_zeros(descriptor: int, size: int) -> None:
    os.pwrite(descriptor, bytes(size), 0)


@pytest.mark.parametrize("at", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("reserve", [os.ftruncate, fallocate])
def test_what_no_process_has_written_is_waited_for_also_when_the_writer_has_ended(
    path: Path, at: float, reserve: Callable[[int, int], None]
) -> None:
    half_written(path, at, reserve)
    assert "is zeros from the file's byte" in reason(path)


@pytest.mark.usefixtures("leaseless")
@pytest.mark.parametrize("at", [0.3, 0.5, 0.9])
def test_where_it_may_still_be_open_zeros_at_the_end_are_waited_for(path: Path, at: float) -> None:
    half_written(path, at, write_zeros)
    assert "is zeros from the file's byte" in reason(path)


def factor_of(block: int, factor: str) -> str:
    return f"transformer.transformer_blocks.{block}.attn.to_q.lora_{factor}.weight"


def cut_before(path: Path, name: str, *, sparse: bool) -> None:
    """A file of four modules, of full size and without data from the tensor `name` on."""
    rng = np.random.default_rng(1)
    data = save(
        {
            factor_of(block, factor): rng.standard_normal(shape, dtype=np.float32)
            for block in range(4)
            for factor, shape in (("A", (8, 4096)), ("B", (4096, 8)))
        }
    )
    header = read_header(data, len(data))
    cut = header.nbytes + header.spans[name].begin
    with path.open("wb", buffering=0) as file:
        file.write(data[:cut])
        if sparse:
            os.ftruncate(file.fileno(), len(data))
        else:
            file.write(bytes(len(data) - cut))


@pytest.mark.parametrize("factor", ["A", "B"])
@pytest.mark.parametrize("sparse", [True, False])
def test_a_file_cut_at_a_tensor_boundary_is_waited_for(
    path: Path, request: pytest.FixtureRequest, factor: str, sparse: bool
) -> None:
    if not sparse:
        request.getfixturevalue("leaseless")
    cut_before(
        path, f"transformer.transformer_blocks.2.attn.to_q.lora_{factor}.weight", sparse=sparse
    )
    # A training run may leave the up matrix of block 2 at zero, but no down matrix.
    block = 2 if factor == "A" else 3
    assert f"{factor_of(block, 'A')!r} is zeros from" in reason(path)


@pytest.mark.parametrize("written", [0, 3000])
def test_a_file_of_which_little_or_nothing_has_been_written(path: Path, written: int) -> None:
    path.write_bytes(lora()[:written])
    os.truncate(path, len(lora()))
    said = reason(path)
    assert "begins with zeros" in said if not written else "zeros" in said


def test_a_piece_that_is_missing_in_the_middle(path: Path) -> None:
    data = lora()
    with path.open("wb", buffering=0) as file:
        os.ftruncate(file.fileno(), len(data))
        for begin, end in ((0, 1 << 18), (1 << 19, len(data))):
            os.pwrite(file.fileno(), data[begin:end], begin)
    assert "lora_A.weight' is zeros from the file's byte 262,144" in reason(path)


@pytest.mark.parametrize("leases", [True, False])
@pytest.mark.parametrize("sparse", [True, False])
def test_zeros_that_are_content_are_no_sign(
    path: Path, request: pytest.FixtureRequest, leases: bool, sparse: bool
) -> None:
    if not leases:
        request.getfixturevalue("leaseless")
    for data in (lora(), lora(zero_up=True), lora(padded=True), lora(padded=True, zero_up=True)):
        path.unlink(missing_ok=True)
        with path.open("wb", buffering=0) as file:
            os.ftruncate(file.fileno(), len(data))
            for begin in range(0, len(data), 4096):
                # As `cp --sparse=always` writes it.
                if not sparse or any(data[begin : begin + 4096]):
                    os.pwrite(file.fileno(), data[begin : begin + 4096], begin)
        assert not reason(path)


@pytest.mark.parametrize("style", sorted(SHIPPED.glob("*.safetensors")), ids=lambda path: path.stem)
def test_a_sparse_copy_of_a_style_is_whole(path: Path, style: Path) -> None:
    # Outputs that training never used are rows of zeros in its up matrices, longer than a page.
    subprocess.run(["cp", "--sparse=always", style, path], check=True)
    assert not reason(path)


def test_a_download_that_stopped_within_short_rows_is_waited_for(path: Path) -> None:
    rng = np.random.default_rng(1)
    up = rng.standard_normal((1 << 16, 16)).astype(np.float16)
    data = save({f"{PATH}.lora_A.weight": up[:64], f"{PATH}.lora_B.weight": up})
    waited = 0
    for _ in range(200):
        begin = int(rng.integers(len(data) // 8, len(data) // 2))
        end = begin + int(rng.integers(3 * 4096, len(data) // 4))
        path.unlink(missing_ok=True)
        with path.open("wb", buffering=0) as file:
            os.ftruncate(file.fileno(), len(data))
            file.write(data[:begin])
            os.pwrite(file.fileno(), data[end:], end)
        waited += bool(reason(path))
    assert waited >= 196, "one cut in a hundred lies between two rows of 32 bytes on both sides"


@pytest.mark.usefixtures("leaseless")
def test_zeros_of_a_closed_file_that_were_written_are_content(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half_written(path, 0.5, write_zeros)
    assert reason(path)
    monkeypatch.undo()
    assert signs_of(found_at(path)) == Signs(closed=True)


def test_a_file_that_is_none_is_left_to_those_who_read_it(path: Path) -> None:
    for data in (b"", b"x", b"PK\x03\x04" + bytes(5000), b"\x10" + bytes(20_000)):
        path.write_bytes(data)
        assert not reason(path)


def test_a_sidecar_counts_as_the_file_itself(tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(lora())
    with (tmp_path / "adapter_config.json").open("w"):
        assert "adapter_config.json beside it open for writing" in reason(path)
    assert not reason(path)
    (tmp_path / "adapter_config.json.aria2").write_bytes(b"")
    assert "adapter_config.json.aria2" in reason(path)


@pytest.mark.parametrize(
    ("number", "open_elsewhere"),
    [
        (errno.EAGAIN, True), (errno.EACCES, False), (errno.EINVAL, False),
        (errno.ENOTSUP, False), (errno.ENOLCK, False), (errno.ESTALE, False),
    ],
)  # fmt: skip
def test_only_the_kernels_refusal_of_a_lease_says_that_a_file_is_open(
    path: Path, monkeypatch: pytest.MonkeyPatch, number: int, open_elsewhere: bool
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, "no")

    path.write_bytes(lora())
    monkeypatch.setattr(writers.fcntl, "fcntl", refuse)
    assert bool(reason(path)) == open_elsewhere
    assert not signs_of(found_at(path)).closed
