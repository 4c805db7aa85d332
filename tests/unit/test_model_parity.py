"""Each network against the stock one with the same weights, in float32."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path

import pytest
import torch
from diffusers import QwenImagePipeline
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from inference_server.model import latents
from inference_server.model.modulation import ModulationTable, conditioning
from inference_server.model.schedule import FAMILIES, ScheduleTable
from inference_server.model.text_encoder import TextConfig
from inference_server.model.transformer import ImageInputs
from inference_server.model.transformer_weights import TransformerConfig
from inference_server.model.vae import VaeConfig, VaeDecoder
from inference_server.model.weights.checkpoint import open_shards
from inference_server.model.weights.text_encoder import (
    fill_layer,
    layer_fields,
    layer_views,
    load_text_encoder,
    reader,
)
from inference_server.model.weights.transformer import (
    block_fields,
    block_views,
    fill_block,
    load_transformer,
    read_edges,
)
from inference_server.weight_kind import WeightKind
from tests.support.tiny_model import make_transformer, make_vae, randomise

CPU = torch.device("cpu")


def relative(ours: torch.Tensor, stock: torch.Tensor) -> float:
    return float((ours - stock).norm() / stock.norm())


def result_of(work: Generator[None, None, torch.Tensor]) -> torch.Tensor:
    """Runs a generator to its end and returns its result."""
    while True:
        try:
            next(work)
        except StopIteration as done:
            return done.value


def read_config(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def test_packing_equals_the_stock_pipelines() -> None:
    x = torch.randn(1, 16, 8, 12)
    packed = QwenImagePipeline._pack_latents(x[:, None], 1, 16, 8, 12)[0]
    assert torch.equal(latents.pack(x), packed)
    assert torch.equal(latents.unpack(packed, 8, 12), x)


@pytest.mark.parametrize("tokens", [1, 7, 40])
@pytest.mark.parametrize("row", [0, 1, 3])
def test_transformer(tmp_path: Path, tokens: int, row: int) -> None:
    stock = make_transformer(tmp_path)
    files = open_shards(tmp_path, "diffusion_pytorch_model")
    config = TransformerConfig.from_json(read_config(tmp_path))
    levels = ScheduleTable.build(FAMILIES["lightning"]).rows

    def fill(index: int, buffer: torch.Tensor) -> None:
        fields = block_fields(config, torch.float32, WeightKind.BF16)
        fill_block(block_views(fields, buffer), index, files.read)

    edges = read_edges(files.read)
    ours = load_transformer(config, edges, fill, grid=(8, 12), device=CPU, dtype=torch.float32)
    table = ModulationTable.build(config, files.read, conditioning(files.read, levels))
    x, text = torch.randn(96, 64), torch.randn(tokens, 48)
    with torch.inference_mode():
        expected = stock(
            hidden_states=x[None],
            encoder_hidden_states=text[None],
            timestep=torch.tensor([levels[row]]),
            img_shapes=[[(1, 8, 12)]],
            return_dict=False,
        )[0][0]
        (modulation,) = table.select([row], [], torch.float32)
        (got,) = ours.forward([ImageInputs(x, text, ours.text_rotation(tokens), modulation)])
    assert relative(got, expected) < 1e-5


def test_vae_decoder(tmp_path: Path) -> None:
    stock = make_vae(tmp_path)
    config = VaeConfig.from_json(read_config(tmp_path))
    ours = VaeDecoder(config, open_shards(tmp_path, "diffusion_pytorch_model"), CPU, torch.float32)
    x = torch.randn(1, 16, 12, 8)
    mean = torch.tensor(stock.config.latents_mean).view(1, 16, 1, 1)
    std = torch.tensor(stock.config.latents_std).view(1, 16, 1, 1)
    with torch.inference_mode():
        expected = stock.decode((x * std + mean)[:, :, None], return_dict=False)[0][:, :, 0]
        got = ours.decode(x)
    assert got.shape == (1, 3, 96, 64)
    assert relative(got, expected) < 1e-5


@pytest.mark.parametrize("tokens", [1, 50])
def test_text_encoder(tmp_path: Path, tokens: int) -> None:
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 300,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [2, 3, 3],
            },
        },
        vision_config={"depth": 1, "hidden_size": 32, "num_heads": 2, "out_hidden_size": 64},
    )
    stock = Qwen2_5_VLForConditionalGeneration(config).eval()
    randomise(stock, 3)
    stock.save_pretrained(tmp_path)
    shape = TextConfig.from_json(read_config(tmp_path))
    read = reader(open_shards(tmp_path, "model"))

    def fill(n: int, buffer: torch.Tensor) -> None:
        fill_layer(layer_views(layer_fields(shape, torch.float32), buffer), n, read)

    edges = read("embed_tokens.weight"), read("norm.weight")
    ours = load_text_encoder(shape, *edges, fill=fill, device=CPU, dtype=torch.float32)
    ids = torch.randint(0, 300, (tokens,))
    with torch.inference_mode():
        expected = stock(input_ids=ids[None], output_hidden_states=True).hidden_states[-1][0]
        got = result_of(ours.layer_by_layer(ids.tolist()))
    assert relative(got, expected) < 1e-5
