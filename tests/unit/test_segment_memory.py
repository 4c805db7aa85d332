"""The segment's memory: sealed, nameless, shared, checked, and read as the layout says."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xxhash

from inference_server.adapters.segment import AdapterSegment
from tests.support.lora_files import lora_tensors, make_lora, pack
from tests.support.other_forms import differences, lokr, relative
from wuliart_lora import LoraAdapter, parse_lora
from wuliart_lora.slot_image import SlotImage, build_image, module_shapes, norm_features
from wuliart_lora.slot_layout import LayoutParameters, LowRankSite, SegmentLayout

SLOTS = 3
ROWS = 3
RANK = 8


def layout_of(dtype: str) -> SegmentLayout:
    return SegmentLayout(
        LayoutParameters(
            blocks=1, width=16, mlp_width=32, image_features=8, output_features=8,
            text_features=12, head_features=8, modulation_rows=ROWS, max_rank=RANK, dtype=dtype,
        )
    )  # fmt: skip


@pytest.fixture(params=["float32", "bfloat16"])
def segment(request: pytest.FixtureRequest) -> AdapterSegment:
    return AdapterSegment(layout_of(request.param), SLOTS, torch.device("cpu"))


CONDITIONING = np.random.default_rng(3).standard_normal((ROWS, 16), np.float32)


def make_image(layout: SegmentLayout, **choices: object) -> tuple[LoraAdapter, SlotImage]:
    adapter = parse_lora(make_lora(layout, **choices), module_shapes(layout), RANK)  # type: ignore[arg-type]
    return adapter, build_image(adapter, layout, CONDITIONING)


def write(segment: AdapterSegment, slot: int, image: SlotImage) -> None:
    """As the manager does it: through the descriptor, not through the server's mapping."""
    os.pwrite(segment.descriptor, image.data.tobytes(), segment.offset(slot))


def read(segment: AdapterSegment, slot: int) -> bytes:
    return os.pread(segment.descriptor, segment.layout.slot_bytes, segment.offset(slot))


def test_slots_lie_side_by_side_and_start_as_zeros(segment: AdapterSegment) -> None:
    size = segment.layout.slot_bytes
    assert segment.nbytes == SLOTS * size == os.fstat(segment.descriptor).st_size
    assert [segment.offset(slot) for slot in range(SLOTS)] == [0, size, 2 * size]
    assert not any(any(read(segment, slot)) for slot in range(SLOTS))


@pytest.mark.parametrize("change", [-1, 1])
def test_its_size_is_sealed(segment: AdapterSegment, change: int) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(segment.descriptor, segment.nbytes + change)
    with pytest.raises(PermissionError):
        os.pwrite(segment.descriptor, b"x", segment.nbytes)
    assert os.fstat(segment.descriptor).st_size == segment.nbytes


def test_its_seals_cannot_be_changed(segment: AdapterSegment) -> None:
    """A manager that sealed it against writing would take it from every later one."""
    with pytest.raises(OSError) as caught:
        fcntl.fcntl(segment.descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    assert caught.value.errno == errno.EPERM


def test_it_has_no_name(segment: AdapterSegment) -> None:
    assert os.fstat(segment.descriptor).st_nlink == 0
    target = str(Path(f"/proc/self/fd/{segment.descriptor}").readlink())
    assert target.startswith("/memfd:")
    assert not os.get_inheritable(segment.descriptor)


WRITER = """
import mmap, os, socket, sys
offset, data = int(sys.argv[2]), bytes.fromhex(sys.argv[3])
with socket.socket(fileno=int(sys.argv[1])) as connection:
    _, (descriptor,), _, _ = socket.recv_fds(connection, 1, 1)
    memory = mmap.mmap(descriptor, os.fstat(descriptor).st_size)
    memory[offset : offset + len(data)] = data
    try:
        os.ftruncate(descriptor, 0)
    except PermissionError:
        connection.sendall(b"sealed")
"""


def test_another_process_writes_through_the_descriptor(segment: AdapterSegment) -> None:
    site = next(iter(segment.layout.low_rank_sites.values()))
    before = segment.tensors(1, 1, [site.name]).factors[site.name].down
    values = torch.arange(1, 5).to(before.dtype)
    data = values.view(torch.uint8).numpy().tobytes()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        place = segment.offset(1)
        arguments = [sys.executable, "-c", WRITER, str(theirs.fileno()), str(place), data.hex()]
        with subprocess.Popen(arguments, pass_fds=[theirs.fileno()]) as writer:
            theirs.close()
            socket.send_fds(ours, [b"\0"], [segment.descriptor])
            assert ours.recv(16) == b"sealed"
            assert writer.wait(20) == 0
    assert not before.any(), "a slot that is being written is not read"
    segment.stage(1, segment.layout.slot_bytes)
    assert torch.equal(before.flatten()[:4], values)
    assert not any(read(segment, 0))
    assert not any(read(segment, 2))


def test_the_checksum_is_that_of_the_slot_itself(segment: AdapterSegment) -> None:
    _, image = make_image(segment.layout)
    write(segment, 1, image)
    size = image.data.size
    assert segment.checksum(1, size) == image.checksum
    assert segment.checksum(1, size) == xxhash.xxh3_128_digest(read(segment, 1)[:size])
    assert segment.checksum(0, size) != image.checksum
    assert segment.checksum(1, size - 1) != image.checksum


@pytest.mark.parametrize("where", [0, 0.5, 1])
def test_the_checksum_catches_one_flipped_bit(segment: AdapterSegment, where: float) -> None:
    _, image = make_image(segment.layout)
    write(segment, 1, image)
    at = int(where * (image.data.size - 1))
    flipped = bytes([int(image.data[at]) ^ 1])
    os.pwrite(segment.descriptor, flipped, segment.offset(1) + at)
    assert segment.checksum(1, image.data.size) != image.checksum


def test_zeroing_a_slot_leaves_its_neighbours(segment: AdapterSegment) -> None:
    size = segment.layout.slot_bytes
    os.pwrite(segment.descriptor, b"\xff" * segment.nbytes, 0)
    segment.zero(1)
    assert [read(segment, slot) for slot in range(SLOTS)] == [
        b"\xff" * size, bytes(size), b"\xff" * size,
    ]  # fmt: skip


RANKS = {
    "img_in": 3,
    "transformer_blocks.0.attn.to_q": 2,
    "transformer_blocks.0.attn.to_v": 5,
    "transformer_blocks.0.txt_mlp.net.2": 4,
    "proj_out": 1,
}


@pytest.mark.parametrize("rank", [1, 5, RANK, RANKS], ids=["1", "5", "largest", "mixed"])
def test_the_server_reads_what_the_manager_wrote(
    segment: AdapterSegment, rank: int | dict[str, int]
) -> None:
    """Every module gets the file's up @ down, or its table; checked against the factors."""
    layout = segment.layout
    modules = None if isinstance(rank, int) else list(rank)
    adapter, image = make_image(layout, rank=rank, modules=modules, convention="kohya")
    os.pwrite(segment.descriptor, b"\x7f" * layout.slot_bytes, segment.offset(2))
    write(segment, 2, image)
    segment.stage(2, image.data.size)
    tensors = segment.tensors(2, image.packed_rank, image.sites)
    assert {*tensors.factors, *tensors.deltas} == set(image.sites)
    tolerance = 1e-5 if layout.parameters.dtype == "float32" else 2e-2
    for module, (site, part) in layout.modules.items():
        factors = adapter.factors.get(module)
        if isinstance(site, LowRankSite):
            if site.name not in image.sites:
                assert factors is None
                continue
            down, up = tensors.factors[site.name]
            assert down.shape == (len(site.modules) * image.packed_rank, site.in_features)
            assert up.shape == (len(site.modules), image.packed_rank, site.out_features)
            rows = down[part * image.packed_rank : (part + 1) * image.packed_rank]
            found = (rows.float().T @ up[part].float()).T.numpy()
            expected = np.zeros_like(found) if factors is None else factors.up @ factors.down
        elif factors is None:
            assert site.name not in tensors.deltas
            continue
        else:
            assert tensors.deltas[site.name].shape == (ROWS, site.out_features)
            found = tensors.deltas[site.name].float().numpy()
            expected = CONDITIONING @ factors.down.T @ factors.up.T
        np.testing.assert_allclose(
            found, expected, atol=tolerance * max(1e-9, np.abs(expected).max()), err_msg=module
        )


def test_the_server_reads_products_and_vectors_that_the_manager_wrote(
    segment: AdapterSegment,
) -> None:
    layout = segment.layout
    products = ["transformer_blocks.0.attn.to_q", "transformer_blocks.0.attn.to_v", "proj_out"]
    changes = lokr(layout, products) | differences(layout, ["img_in", products[1]], layout.norms)
    tensors = changes.tensors | lora_tensors(layout, rank=2, modules=["txt_in"])
    adapter = parse_lora(pack(tensors), module_shapes(layout), RANK, norms=norm_features(layout))
    image = build_image(adapter, layout, CONDITIONING)
    os.pwrite(segment.descriptor, b"\x7f" * layout.slot_bytes, segment.offset(2))
    write(segment, 2, image)
    segment.stage(2, image.data.size)
    held = segment.tensors(2, image.packed_rank, image.sites, image.kronecker)
    assert set(held.factors) == {"txt_in"} and set(held.kronecker) == {"block0.img_qkv", "proj_out"}
    found = {}
    for site, parts in held.kronecker.items():
        for part, first, second in parts:
            module = layout.low_rank_sites[site].modules[part]
            found[f"{module}.weight"] = torch.kron(first.double(), second.double()).numpy()
    for name, vector in held.vectors.items():
        site = layout.vector_sites[name]
        kind = "weight" if site.modules[0] in layout.norms else "bias"
        each = vector.double().view(len(site.modules), -1).numpy()
        found |= {f"{m}.{kind}": v for m, v in zip(site.modules, each, strict=True) if v.any()}
    tolerance = 1e-6 if layout.parameters.dtype == "float32" else 1e-2
    assert relative(found, changes.added) < tolerance


def test_tensors_are_views_in_the_layouts_dtype(segment: AdapterSegment) -> None:
    layout = segment.layout
    products = {"img_in": (2, 2)}
    tensors = segment.tensors(1, RANK, [*layout.sites], products)
    dtype = getattr(torch, layout.parameters.dtype)
    every = [t for pair in tensors.factors.values() for t in pair]
    every += [
        *tensors.deltas.values(),
        *tensors.vectors.values(),
        *tensors.kronecker["img_in"][0][1:],
    ]
    assert {tensor.dtype for tensor in every} == {dtype}
    assert not any(tensor.any() for tensor in every)
    ones = torch.ones(layout.slot_bytes // layout.element_bytes, dtype=dtype)
    os.pwrite(segment.descriptor, ones.view(torch.uint8).numpy().tobytes(), segment.offset(1))
    segment.stage(1, layout.slot_bytes)
    assert all((tensor == 1).all() for tensor in every)


@pytest.mark.parametrize("rank", [0, -1, RANK + 1, 1 << 31])
def test_a_rank_of_another_layout_is_refused(segment: AdapterSegment, rank: int) -> None:
    with pytest.raises(ValueError, match=rf"rank {rank} is outside 1\.\.{RANK}"):
        segment.tensors(0, rank, ["img_in"])


@pytest.mark.parametrize("site", ["block1.img_qkv", "", "transformer_blocks.0.attn.to_q"])
def test_a_site_of_another_layout_is_refused(segment: AdapterSegment, site: str) -> None:
    with pytest.raises(ValueError, match=f"the layout has no site '{site}'"):
        segment.tensors(0, 1, ["img_in", site])
