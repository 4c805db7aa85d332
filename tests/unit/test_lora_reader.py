"""The container: what is read agrees with the safetensors library, what is refused says why."""

from __future__ import annotations

import json
import re
import tracemalloc

import numpy as np
import pytest
import safetensors.numpy

from tests.support.bad_lora_files import BAD_FILES
from tests.support.lora_files import lora_tensors, make_lora, pack, pack_raw
from wuliart_lora import LoraError, parse_lora, read_safetensors
from wuliart_lora.slot_image import module_shapes
from wuliart_lora.slot_layout import LayoutParameters, SegmentLayout

LAYOUT = SegmentLayout(LayoutParameters(2, 64, 256, 64, 64, 48, 16, 10, 32, "float32"))


def test_reads_what_the_library_reads() -> None:
    data = make_lora(LAYOUT, metadata={"title": "水彩", "note": ""})
    ours = read_safetensors(data)
    theirs = safetensors.numpy.load(data)
    assert ours.tensors.keys() == theirs.keys()
    for name, array in theirs.items():
        assert ours.tensors[name].shape == array.shape
        assert bytes(ours.tensors[name].data) == array.tobytes()
    assert ours.metadata == {"title": "水彩", "note": ""}


def test_reads_what_the_library_writes() -> None:
    arrays = {"b": np.arange(6, dtype=np.float16).reshape(2, 3), "a": np.zeros((0, 4), np.float32)}
    file = read_safetensors(safetensors.numpy.save(arrays, {"k": "v"}))
    assert {name: tensor.shape for name, tensor in file.tensors.items()} == {
        "a": (0, 4),
        "b": (2, 3),
    }
    assert bytes(file.tensors["b"].data) == arrays["b"].tobytes()
    assert file.metadata == {"k": "v"}


def test_header_length_that_looks_like_a_pickle_is_read() -> None:
    data = pack({"a": ("F32", (1,), bytes(4))}, pad=0x280)
    assert data.startswith(b"\x80\x02")
    assert read_safetensors(data).tensors["a"].shape == (1,)


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_file_is_refused_with_its_reason(kind: str) -> None:
    bad = BAD_FILES[kind]
    data = bad.make(LAYOUT)
    with pytest.raises(LoraError) as caught:
        parse_lora(data, module_shapes(LAYOUT), LAYOUT.parameters.max_rank)
    assert re.search(bad.reason, caught.value.reason)
    assert "\n" not in caught.value.reason
    assert len(caught.value.reason) < 1000


def test_truncation_names_both_sizes_of_the_file() -> None:
    data = make_lora(LAYOUT)
    with pytest.raises(LoraError, match=f"{len(data):,} bytes expected, {len(data) - 1:,} found"):
        read_safetensors(data[:-1])


def test_names_from_the_file_cannot_forge_a_log_line() -> None:
    name = "x\n2026-01-01 ERROR \x1b[31mroot\u202e\ud800"
    raw = json.dumps({name: {"dtype": "F8_E8M0", "shape": [1], "data_offsets": [0, 1]}}).encode()
    with pytest.raises(LoraError) as caught:
        read_safetensors(pack_raw(raw, b"\0"))
    assert caught.value.reason.isprintable()
    caught.value.reason.encode()


@pytest.mark.parametrize(
    "header",
    [
        b'{"__metadata__": "a"}',
        b'{"__metadata__": []}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], "more": 1}}',
        b'{"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [true], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 1e999]}}',
        b'{"a": {"dtype": "F32", "shape": [1,1,1,1,1,1,1,1,1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [%s], "data_offsets": [0, 4]}}' % (b"9" * 5000),
        b'{"%s": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}' % (b"a" * 600),
        b'{"\xff": 0}',
        b"{",
        b"{}{}",
    ],
)
def test_damaged_headers_are_refused(header: bytes) -> None:
    with pytest.raises(LoraError):
        read_safetensors(pack_raw(header, bytes(4)))


@pytest.mark.parametrize(
    "data",
    [
        pack_raw(b"{" + b" " * (4 << 20), length=1 << 60),
        pack_raw(
            json.dumps(
                {"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}
            ).encode()
        ),
    ],
    ids=["header", "tensor"],
)
def test_announced_sizes_are_never_allocated(data: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(LoraError):
            read_safetensors(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20


def test_tensors_are_views() -> None:
    tensors = lora_tensors(LAYOUT)
    data = pack(tensors)
    tracemalloc.start()
    try:
        file = read_safetensors(data)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(file.tensors) == len(tensors)
    assert held < len(data)
    assert all(tensor.data.readonly for tensor in file.tensors.values())
