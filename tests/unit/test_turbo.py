"""Fusing a Turbo LoRA while loading equals stock peft's merge on the same transformer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from inference_server.engine.loaded_model import slot_layout
from inference_server.errors import ModelError
from inference_server.model.schedule import FAMILIES, ScheduleTable
from inference_server.model.transformer_weights import TransformerConfig
from inference_server.model.weights.checkpoint import open_shards
from inference_server.model.weights.turbo_lora import FusedWeights, turbo_files
from tests.support.lora_files import pack
from tests.support.other_forms import differences, lokr
from tests.support.tiny_model import TRANSFORMER, make_transformer

RANK = 8
TARGETS = ("attn.to_q", "attn.to_out.0", "attn.add_k_proj", "img_mlp.net.0.proj", "txt_mod.1")


def write_turbo(model: torch.nn.Module, path: Path, *, alpha: float | None) -> None:
    """Writes a LoRA in Lightning's layout with an alpha, in PEFT's without; all linears."""
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for name, layer in model.named_modules():
        if not isinstance(layer, torch.nn.Linear):
            continue
        if not name.endswith(TARGETS) and "timestep_embedder" not in name:
            continue
        down = torch.randn(RANK, layer.in_features, generator=generator)
        up = torch.randn(layer.out_features, RANK, generator=generator)
        if alpha is None:
            tensors[f"transformer.{name}.lora_A.weight"] = down
            tensors[f"transformer.{name}.lora_B.weight"] = up
        else:
            tensors[f"{name}.lora_down.weight"] = down
            tensors[f"{name}.lora_up.weight"] = up
            tensors[f"{name}.alpha"] = torch.tensor(alpha)
    save_file(tensors, path)


@pytest.mark.parametrize("alpha", [None, 8.0, 2.0])
def test_fusing_equals_stock_pefts_merge(tmp_path: Path, alpha: float | None) -> None:
    stock = make_transformer(tmp_path / "transformer")
    path = tmp_path / "turbo.safetensors"
    write_turbo(stock, path, alpha=alpha)
    fused = FusedWeights(open_shards(tmp_path / "transformer", "diffusion_pytorch_model"), path)

    write_turbo(stock, tmp_path / "peft.safetensors", alpha=None)
    stock.load_lora_adapter(tmp_path / "peft.safetensors", prefix="transformer")
    scale = 1.0 if alpha is None else alpha / RANK
    stock.fuse_lora(lora_scale=scale)
    stock.unload_lora()
    for name, parameter in stock.state_dict().items():
        assert torch.allclose(fused.read(name).float(), parameter, atol=1e-5), name


def test_a_lokr_and_differences_are_fused_too(tmp_path: Path) -> None:
    stock = make_transformer(tmp_path / "transformer")
    config = TransformerConfig.from_json(TRANSFORMER)
    schedules = ScheduleTable.build(FAMILIES["lightning"])
    layout = slot_layout(config, schedules, torch.float32, 4)
    changes = lokr(layout, layout.modules) | differences(layout, layout.modules, layout.norms)
    (tmp_path / "turbo.safetensors").write_bytes(pack(changes.tensors))
    weights = open_shards(tmp_path / "transformer", "diffusion_pytorch_model")
    fused = FusedWeights(weights, tmp_path / "turbo.safetensors")
    for name, parameter in stock.state_dict().items():
        added = changes.added.get(name)
        expected = parameter if added is None else parameter + torch.from_numpy(added)
        assert torch.allclose(fused.read(name).double(), expected.double(), atol=1e-5), name
    assert sum(name in changes.added for name in stock.state_dict()) == len(changes.added)


@pytest.mark.parametrize(
    ("file", "metadata", "sidecar", "scale"),
    [
        ("turbo", {"lora_alpha": "16", "lora_rank": "8"}, None, 2),
        ("turbo", {"alpha": "32"}, None, 4),
        ("adapter_model", None, '{"peft_type": "LORA", "r": 8, "lora_alpha": 32}', 4),
        ("turbo", None, '{"r": 8, "lora_alpha": 8, "use_rslora": true}', 8 / 8**0.5),
    ],
)
def test_its_strength_is_read_beside_the_tensors(
    tmp_path: Path,
    file: str,
    metadata: dict[str, str] | None,
    sidecar: str | None,
    scale: float,
) -> None:
    stock = make_transformer(tmp_path / "transformer")
    weights = open_shards(tmp_path / "transformer", "diffusion_pytorch_model")
    turbo, plain = tmp_path / f"lora/{file}.safetensors", tmp_path / "plain.safetensors"
    turbo.parent.mkdir()
    write_turbo(stock, plain, alpha=None)
    save_file(load_file(plain), turbo, metadata)
    if sidecar is not None:
        (turbo.parent / "adapter_config.json").write_text(sidecar)
    strong, weak = FusedWeights(weights, turbo), FusedWeights(weights, plain)
    for name, parameter in stock.state_dict().items():
        gained = weak.read(name).float() - parameter
        assert torch.allclose(strong.read(name).float(), parameter + scale * gained, atol=1e-4)


@pytest.mark.parametrize(
    ("sidecar", "reason"),
    [
        ("{", "is not a JSON object"),
        ('{"r": 8, "lora_alpha": 8, "use_dora": true}', "sets use_dora"),
        (" " * (1 << 20) + "{}", "1,048,576 is the limit"),
    ],
    ids=["half", "dora", "huge"],
)
def test_a_sidecar_that_is_not_understood_is_refused(
    tmp_path: Path, sidecar: str, reason: str
) -> None:
    stock = make_transformer(tmp_path / "transformer")
    weights = open_shards(tmp_path / "transformer", "diffusion_pytorch_model")
    write_turbo(stock, tmp_path / "turbo.safetensors", alpha=None)
    (tmp_path / "adapter_config.json").write_text(sidecar)
    with pytest.raises(ModelError, match=rf"turbo\.safetensors.*{reason}"):
        FusedWeights(weights, tmp_path / "turbo.safetensors")


def test_a_sidecar_beside_two_files_is_refused_unless_the_file_states_its_alpha(
    tmp_path: Path,
) -> None:
    stock = make_transformer(tmp_path / "transformer")
    weights = open_shards(tmp_path / "transformer", "diffusion_pytorch_model")
    turbo, other = tmp_path / "turbo.safetensors", tmp_path / "Other.SafeTensors"
    write_turbo(stock, turbo, alpha=None)
    (tmp_path / "adapter_config.json").write_text('{"r": 8, "lora_alpha": 32}')
    FusedWeights(weights, turbo)
    other.write_bytes(b"")
    with pytest.raises(ModelError, match=r"may belong to it or to 'Other\.SafeTensors'"):
        FusedWeights(weights, turbo)
    write_turbo(stock, turbo, alpha=8.0)
    FusedWeights(weights, turbo)


def test_a_link_has_the_sidecar_of_its_target_and_never_two(tmp_path: Path) -> None:
    stock = make_transformer(tmp_path / "transformer")
    weights = open_shards(tmp_path / "transformer", "diffusion_pytorch_model")
    turbo, link = tmp_path / "peft/adapter_model.safetensors", tmp_path / "links/turbo.safetensors"
    for path in (turbo, link):
        path.parent.mkdir()
    write_turbo(stock, turbo, alpha=None)
    config, second = turbo.with_name("adapter_config.json"), link.with_name("adapter_config.json")
    config.write_text('{"r": 8, "lora_alpha": 32}')
    link.symlink_to(turbo)
    assert turbo_files(link) == [link, config]
    through_link, direct = FusedWeights(weights, link), FusedWeights(weights, turbo)
    for name in stock.state_dict():
        assert torch.equal(through_link.read(name), direct.read(name))
    second.symlink_to(config)
    assert turbo_files(link) == [link, second], "one file under two names"
    second.unlink()
    second.write_text('{"r": 8, "lora_alpha": 8}')
    with pytest.raises(ModelError, match="beside this link and also beside the file"):
        FusedWeights(weights, link)


def test_a_snapshot_of_links_to_blobs_as_the_hub_caches_it(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots/1"
    for folder in (blobs, snapshot):
        folder.mkdir(parents=True)
    for name, blob in (("adapter_model.safetensors", "a1"), ("adapter_config.json", "b2")):
        (blobs / blob).write_bytes(b"{}")
        (snapshot / name).symlink_to(f"../../blobs/{blob}")
    turbo = snapshot / "adapter_model.safetensors"
    assert turbo_files(turbo) == [turbo, snapshot / "adapter_config.json"]


def test_without_a_file_nothing_changes(tmp_path: Path) -> None:
    stock = make_transformer(tmp_path)
    plain = FusedWeights(open_shards(tmp_path, "diffusion_pytorch_model"), None)
    for name, parameter in stock.state_dict().items():
        assert torch.equal(plain.read(name), parameter)


@pytest.mark.parametrize("content", [None, b"rubbish"])
def test_the_error_names_a_file_that_does_not_fit(tmp_path: Path, content: bytes | None) -> None:
    make_transformer(tmp_path)
    path = tmp_path / "turbo.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=r"turbo\.safetensors"):
        FusedWeights(open_shards(tmp_path, "diffusion_pytorch_model"), path)
