"""GGUF files against the package `gguf`: every type, the header, and what is refused."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from inference_server.errors import ModelError
from inference_server.model.weights import gguf_file
from inference_server.model.weights.gguf_file import GgufFile
from inference_server.model.weights.gguf_types import OTHER_TYPES, TYPES
from inference_server.model.weights.llama_names import transformers_name
from tests.support.gguf_files import BLOCKS, PLAIN, Stored, random_tensor, write_gguf


def opened(path: Path) -> GgufFile:
    return GgufFile(path.parent, path)


def test_the_tables_of_types_are_those_of_ggml() -> None:
    names = {number: kind.name for number, kind in TYPES.items()} | dict(OTHER_TYPES)
    assert names == {kind.value: kind.name for kind in GGMLQuantizationType}
    for number, kind in TYPES.items():
        assert (kind.elements, kind.nbytes) == GGML_QUANT_SIZES[GGMLQuantizationType(number)]


@pytest.mark.parametrize("name", [*BLOCKS, *PLAIN])
def test_every_type_is_equal_to_the_package(name: str, tmp_path: Path) -> None:
    # 1,280 rows of 1,024: more than one piece, the last one not full.
    tensors = {"a": random_tensor(name, (1280, 1024)), "b": random_tensor(name, (1, 256), seed=1)}
    with opened(write_gguf(tmp_path / "x.gguf", tensors)) as file:
        assert file.names == ["a", "b"]
        assert file.metadata["general.architecture"] == "qwen_image"
        for tensor, stored in tensors.items():
            read = file.read(tensor)
            assert file.stored_as(tensor) == name
            assert file.shape(tensor) == stored.values.shape == tuple(read.shape)
            assert read.dtype == getattr(TYPES[stored.kind], "dtype", torch.float32)
            # Bytes, not values: 0 and -0 differ.
            assert read.float().numpy().tobytes() == stored.values.tobytes()
            assert 0 < read.float().std() < 1


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_of_any_bytes_are_equal_to_the_package(name: str, tmp_path: Path) -> None:
    block = BLOCKS[name]
    rows = np.random.default_rng(2).integers(0, 256, (4096, block.nbytes), "u1")
    for at in block.halves:  # an exponent below that of infinity
        rows[:, at + 1] &= 0xBF
    stored = Stored(rows, GGMLQuantizationType[name])
    with opened(write_gguf(tmp_path / "x.gguf", {"a": stored})) as file:
        assert file.read("a").numpy().tobytes() == stored.values.tobytes()


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_weights_survive_as_well_as_their_bits_allow(name: str, tmp_path: Path) -> None:
    weights = np.random.default_rng(3).standard_normal((64, 256), np.float32)
    kind = GGMLQuantizationType[name]
    stored = Stored(gguf.quantize(weights, kind), kind)
    with opened(write_gguf(tmp_path / "x.gguf", {"a": stored})) as file:
        error = (file.read("a") - torch.from_numpy(weights)).std()
    assert error < {"Q4": 0.12, "Q5": 0.06, "Q8": 0.01}[name[:2]]


def test_a_reshaped_tensor_has_its_true_shape(tmp_path: Path) -> None:
    stored = random_tensor("Q4_K", (6, 256))
    path = write_gguf(tmp_path / "x.gguf", {"a": stored}, shapes={"a": (4, 3, 128)})
    with opened(path) as file:
        assert file.shape("a") == (4, 3, 128)
        assert torch.equal(file.read("a"), torch.from_numpy(stored.values).view(4, 3, 128))


def test_a_file_that_shrinks_is_an_error(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "x.gguf", {"a": random_tensor("Q8_0", (64, 256))})
    with opened(path) as file:
        with path.open("rb+") as written:
            written.truncate(path.stat().st_size - 4096)
        with pytest.raises(ModelError, match=r"x\.gguf became shorter while it was read"):
            file.read("a")


@pytest.mark.parametrize("name", BLOCKS)
def test_a_scale_that_is_not_finite_is_damage(name: str, tmp_path: Path) -> None:
    stored = random_tensor(name, (8, 256))
    at = BLOCKS[name].halves[-1]
    stored.data[5, at : at + 2] = np.array([np.inf], "<f2").view("u1")
    with (
        opened(write_gguf(tmp_path / "x.gguf", {"a": stored})) as file,
        pytest.raises(ModelError, match=r"x\.gguf is damaged .*'a' holds a scale"),
    ):
        file.read("a")


def test_a_tensor_is_dequantised_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_file, "PIECE_ELEMENTS", 512)
    stored = random_tensor("Q4_K", (7, 256))
    with opened(write_gguf(tmp_path / "x.gguf", {"a": stored})) as file:
        assert torch.equal(file.read("a"), torch.from_numpy(stored.values))


def test_reading_leaves_the_number_of_threads_as_it_was(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        stored = random_tensor("Q8_0", (8, 256))
        with opened(write_gguf(tmp_path / "x.gguf", {"a": stored})) as file:
            file.read("a")
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_names_of_text_encoders_are_those_of_llama_cpp() -> None:
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2VL, 28)
    layer = "model.layers.27."
    known = [
        "model.embed_tokens.weight",
        "model.norm.weight",
        *(f"{layer}self_attn.{part}_proj.{end}" for part in "qkv" for end in ("weight", "bias")),
        f"{layer}self_attn.o_proj.weight",
        *(f"{layer}mlp.{part}_proj.weight" for part in ("gate", "up", "down")),
        f"{layer}input_layernorm.weight",
        f"{layer}post_attention_layernorm.weight",
    ]
    for name in known:
        stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert stored is not None
        assert transformers_name(stored) == name
    for other in ("output.weight", "rope_freqs.weight", "blk.0.ffn_gate_exps.weight", "blk.x", ""):
        assert transformers_name(other) is None
