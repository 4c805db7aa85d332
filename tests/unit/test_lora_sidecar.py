"""adapter_config.json beside a file: read as peft reads it, for the file that it belongs to.

The manager reads it as it was admitted, or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import QwenImageTransformer2DModel
from peft import LoHaConfig, LoKrConfig, LoraConfig, PeftModel, get_peft_model
from peft.tuners.loha import LoHaLayer
from peft.tuners.lokr import LoKrLayer
from peft.tuners.lora import LoraLayer

from lora_manager import loading
from lora_manager.admitted_file import FileChangedError
from lora_manager.catalog import Entry
from lora_manager.directory import inspect, scan
from lora_manager.loading import Loaded, ModelShape, load
from lora_manager.lora_file import LoraFile, Stamp
from lora_manager.verdicts import Verdict
from tests.support.fake_segment_server import PARAMETERS, lora_bytes
from tests.support.lora_files import lora_tensors, make_lora, module_features, pack
from wuliart_lora import LoraError, parse_lora
from wuliart_lora.sidecar import MAX_SIDECAR_BYTES, SIDECAR_NAME, SidecarOwners
from wuliart_lora.slot_layout import LayoutParameters, SegmentLayout

FEATURES = module_features(
    SegmentLayout(LayoutParameters(2, 64, 256, 64, 64, 48, 16, 10, 32, "float32"))
)
TARGETS = ["to_q", "to_k", "to_out.0", "img_mod.1", "net.2", "norm_out.linear", "proj_out"]


def transformer() -> QwenImageTransformer2DModel:
    torch.manual_seed(0)
    return QwenImageTransformer2DModel(
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=32,
        axes_dims_rope=(8, 12, 12),
        joint_attention_dim=48,
        in_channels=64,
        out_channels=16,
    )


def delta_of(layer: Any, adapter: str) -> np.ndarray:
    """Returns the change of the layer's weight, as peft computes it."""
    delta: np.ndarray = layer.get_delta_weight(adapter).detach().numpy()
    return delta


def saved(config: Any, folder: Path, name: str = "default") -> tuple[bytes, Any, PeftModel]:
    """(the file, the fields beside it, the model) of an adapter with weights that are not zero."""
    model: Any = get_peft_model(transformer(), config, adapter_name=name)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_" in key or "hada_" in key:
                parameter.normal_(std=0.1)
    model.save_pretrained(str(folder))
    folder = folder if name == "default" else folder / name
    data = (folder / "adapter_model.safetensors").read_bytes()
    return data, json.loads((folder / SIDECAR_NAME).read_text()), model


def assert_peft_computes(
    ours: Mapping[str, Any], model: PeftModel, layer: type[Any], name: str
) -> None:
    """Compares what we add to each module with what peft's layers of a kind add."""
    deltas = {
        path.removeprefix("base_model.model."): delta_of(module, name)
        for path, module in model.named_modules()
        if isinstance(module, layer)
    }
    assert ours.keys() == deltas.keys()
    for module, delta in deltas.items():
        np.testing.assert_allclose(ours[module], delta, rtol=1e-4, atol=1e-4 * np.abs(delta).max())


@pytest.mark.parametrize(
    "config",
    [
        {"r": 4, "lora_alpha": 16},
        {"r": 4, "lora_alpha": 4, "use_rslora": True},
        {"r": 4, "lora_alpha": 16, "init_lora_weights": "gaussian"},
        {
            "r": 4,
            "lora_alpha": 8,
            "rank_pattern": {"attn.to_k": 3, "^transformer_blocks.1.attn.to_q": 7},
            "alpha_pattern": {"attn.to_q": 2, "img_mod.1": 5},
        },
        {
            "r": 4,
            "lora_alpha": 8,
            "use_rslora": True,
            "rank_pattern": {"to_k": 2},
            "alpha_pattern": {"transformer_blocks.0.attn.to_q": 32},
        },
    ],
    ids=["alpha", "rslora", "gaussian", "patterns", "patterns and rslora"],
)
@pytest.mark.parametrize("name", ["default", "ink"])
def test_files_saved_by_peft_mean_what_peft_computes(
    tmp_path: Path, config: dict[str, Any], name: str
) -> None:
    data, fields, model = saved(LoraConfig(target_modules=TARGETS, **config), tmp_path, name)
    adapter = parse_lora(data, FEATURES, config=fields)
    ours = {m: f.up @ f.down for m, f in adapter.factors.items()}
    assert_peft_computes(ours, model, LoraLayer, name)


@pytest.mark.parametrize(
    "config",
    [
        {"r": 4},
        {"r": 4, "alpha": 16, "use_effective_conv2d": True},
        {
            "r": 4,
            "alpha": 8,
            "rank_pattern": {"attn.to_k": 3, "^transformer_blocks.1.attn.to_q": 5},
            "alpha_pattern": {"attn.to_q": 2, "img_mod.1": 5},
        },
    ],
    ids=["defaults", "alpha", "patterns"],
)
@pytest.mark.parametrize("name", ["default", "ink"])
def test_lohas_saved_by_peft_mean_what_peft_computes(
    tmp_path: Path, config: dict[str, Any], name: str
) -> None:
    data, fields, model = saved(LoHaConfig(target_modules=TARGETS, **config), tmp_path, name)
    adapter = parse_lora(data, FEATURES, config=fields)
    ours = {m: f.up @ f.down for m, f in adapter.factors.items()}
    assert_peft_computes(ours, model, LoHaLayer, name)


@pytest.mark.parametrize(
    "config",
    [
        {"r": 2},
        {"r": 64, "alpha": 16},
        {"r": 2, "alpha": 3, "decompose_both": True, "decompose_factor": 4},
        {
            "r": 2,
            "alpha": 8,
            "rank_pattern": {"attn.to_k": 3, "^transformer_blocks.1.attn.to_q": 64},
            "alpha_pattern": {"attn.to_q": 2, "img_mod.1": 5},
        },
    ],
    ids=["defaults", "whole factors", "both in two", "patterns"],
)
@pytest.mark.parametrize("name", ["default", "ink"])
def test_lokrs_saved_by_peft_mean_what_peft_computes(
    tmp_path: Path, config: dict[str, Any], name: str
) -> None:
    config = {"init_weights": False, "target_modules": TARGETS, **config}
    data, fields, model = saved(LoKrConfig(**config), tmp_path, name)
    adapter = parse_lora(data, FEATURES, config=fields)
    ours = {m: np.kron(*f.widened()) for m, f in adapter.kronecker.items()}
    assert_peft_computes(ours, model, LoKrLayer, name)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (LoraConfig(r=4, target_modules=TARGETS, init_lora_weights="pissa"), "'pissa'"),
        (LoraConfig(r=4, target_modules=TARGETS, init_lora_weights="olora"), "'olora'"),
        (LoraConfig(r=4, target_modules=TARGETS, use_dora=True), "DoRA"),
        (LoraConfig(r=4, target_modules=TARGETS, lora_bias=True), "LoRA biases"),
        (LoraConfig(r=4, target_modules=TARGETS, modules_to_save=["img_in"]), "whole weight"),
        (LoHaConfig(r=4, target_modules=TARGETS, modules_to_save=["img_in"]), "whole weight"),
    ],
    ids=["pissa", "olora", "dora", "bias", "modules to save", "loha and more"],
)
def test_files_saved_by_peft_for_other_methods_are_refused(
    tmp_path: Path, config: Any, reason: str
) -> None:
    data, fields, _ = saved(config, tmp_path)
    with pytest.raises(LoraError, match=reason):
        parse_lora(data, FEATURES, config=fields)


@pytest.mark.parametrize(
    ("names", "owner"),
    [
        (["adapter_model.safetensors"], "adapter_model.safetensors"),
        (["a.safetensors", "adapter_model.safetensors"], "adapter_model.safetensors"),
        (["ink.safetensors", "README.md", "ink.pt"], "ink.safetensors"),
        (["INK.SAFETENSORS"], "INK.SAFETENSORS"),
        (["ink.safetensors", ".ink.safetensors", "._ink.safetensors"], "ink.safetensors"),
        (["README.md"], None),
        ([], None),
    ],
)
def test_the_file_that_a_sidecar_belongs_to(names: list[str], owner: str | None) -> None:
    owners = SidecarOwners([SIDECAR_NAME, *names])
    files = [n for n in names if n.lower().endswith(".safetensors") and not n.startswith(".")]
    assert [name for name in files if owners.owns(name)] == ([owner] if owner else [])
    assert owner is None or owners.rival(owner) is None


def test_beside_several_files_a_sidecar_may_belong_to_each() -> None:
    names = ["c.safetensors", "a.safetensors", "b.safetensors"]
    owners = SidecarOwners([SIDECAR_NAME, *names, "README.md"])
    assert not any(owners.owns(name) for name in names)
    assert [owners.rival(name) for name in sorted(names)] == [
        "b.safetensors", "a.safetensors", "a.safetensors",
    ]  # fmt: skip
    assert owners.rival("not-listed") == "a.safetensors"


def test_beside_a_file_that_peft_named_a_sidecar_belongs_to_no_other() -> None:
    owners = SidecarOwners(["adapter_model.safetensors", "ink.safetensors", SIDECAR_NAME])
    assert (owners.owns("ink.safetensors"), owners.rival("ink.safetensors")) == (False, None)
    assert owners.rival("adapter_model.safetensors") is None


SHAPE = ModelShape.of(
    SegmentLayout(PARAMETERS),
    np.zeros((PARAMETERS.modulation_rows, PARAMETERS.width), np.float32),
)
LORA = make_lora(SegmentLayout(PARAMETERS), modules=["img_in"], convention="base_model")
FOUR = b'{"peft_type": "LORA", "r": 4, "lora_alpha": 16}'


def put(folder: Path, sidecar: bytes | None) -> LoraFile:
    """Returns a file as a scan finds it, with the sidecar."""
    (folder / "adapter_model.safetensors").write_bytes(LORA)
    found = inspect(folder, "adapter_model.safetensors")
    assert found is not None
    if sidecar is None:
        return replace(found, sidecar=None, sidecar_stamp=None)
    path = folder.resolve() / SIDECAR_NAME
    path.write_bytes(sidecar)
    return replace(found, sidecar=path, sidecar_stamp=Stamp.of(path.stat()))


def judge(found: LoraFile, known: Entry | None = None) -> Loaded:
    return load(found, known, SHAPE, 1 << 20, want_image=True)


def content(loaded: Loaded) -> bytes:
    assert loaded.image is not None, loaded.entry.refusal
    return loaded.image.data.tobytes()


def test_the_manager_applies_the_sidecars_alpha(tmp_path: Path) -> None:
    plain, strong = judge(put(tmp_path, None)), judge(put(tmp_path, FOUR))
    expected = make_lora(
        SegmentLayout(PARAMETERS), modules=["img_in"], convention="kohya", alpha=16.0
    )
    (tmp_path / "other").mkdir()
    (tmp_path / "other/ink.safetensors").write_bytes(expected)
    other = inspect(tmp_path, "other/ink.safetensors")
    assert other is not None
    assert content(strong) == content(judge(other))
    assert content(strong) != content(plain)


def test_a_changed_sidecar_changes_the_adapter(tmp_path: Path) -> None:
    first = judge(put(tmp_path, FOUR)).entry
    assert first.content_hash == hashlib.sha256(LORA + FOUR).hexdigest()
    assert judge(put(tmp_path, FOUR), first).unchanged
    for sidecar in (FOUR.replace(b"16", b"8"), None):
        changed = judge(put(tmp_path, sidecar), first)
        assert not changed.unchanged and changed.image is not None
        assert changed.entry.content_hash != first.content_hash


def test_a_second_file_in_the_folder_changes_no_strength_in_silence(tmp_path: Path) -> None:
    (tmp_path / SIDECAR_NAME).write_bytes(FOUR)
    (tmp_path / "watercolor.safetensors").write_bytes(LORA)
    alone = judge(scan(tmp_path).files["watercolor"])
    assert alone.image is not None

    (tmp_path / "ink.safetensors").write_bytes(LORA)
    files = scan(tmp_path, {"watercolor.safetensors": alone.entry.found}).files
    for name, other in (("watercolor", "ink"), ("ink", "watercolor")):
        beside = judge(files[name], alone.entry if name == "watercolor" else None)
        assert beside.image is None and not beside.unchanged
        assert beside.entry.refusal.startswith(
            f"{SIDECAR_NAME} beside it may belong to it or to '{other}.safetensors'"
        )
        assert "move adapter_config.json into a folder of its own" in beside.entry.refusal
        inspected = inspect(tmp_path, f"{name}.safetensors")
        assert inspected == files[name]

    (tmp_path / "ink.safetensors").unlink()
    again = judge(scan(tmp_path, {f.relative: f for f in files.values()}).files["watercolor"])
    assert content(again) == content(alone)


def test_files_that_state_their_own_alpha_may_share_a_folder_with_it(tmp_path: Path) -> None:
    (tmp_path / SIDECAR_NAME).write_bytes(FOUR)
    layout = SegmentLayout(PARAMETERS)
    own = {
        "tensors": make_lora(layout, modules=["img_in"], convention="kohya", alpha=8.0),
        "header": make_lora(layout, modules=["img_in"], metadata={"lora_alpha": "8"}),
    }
    for name, data in own.items():
        (tmp_path / f"{name}.safetensors").write_bytes(data)
    images = [content(judge(found)) for found in scan(tmp_path).files.values()]
    assert len(images) == 2 and images[0] == images[1]


def test_a_file_with_alpha_for_a_part_of_its_modules_has_no_alpha_of_its_own(
    tmp_path: Path,
) -> None:
    tensors = lora_tensors(
        SegmentLayout(PARAMETERS), modules=["img_in", "txt_in"], convention="kohya", alpha=8.0
    )
    del tensors["lora_unet_txt_in.alpha"]
    (tmp_path / SIDECAR_NAME).write_bytes(FOUR)
    for name in ("ink", "other"):
        (tmp_path / f"{name}.safetensors").write_bytes(pack(tensors))
    assert "may belong to it" in judge(scan(tmp_path).files["ink"]).entry.refusal


def test_a_verdict_from_before_the_second_file_does_not_hold(tmp_path: Path) -> None:
    (tmp_path / "ink.safetensors").write_bytes(LORA)
    os.utime(tmp_path / "ink.safetensors", (1, 1))
    before = inspect(tmp_path, "ink.safetensors")
    assert before is not None
    verdict = Verdict.of(judge(before).entry, "layout")
    assert verdict.is_of(before, "layout")

    (tmp_path / SIDECAR_NAME).write_bytes(FOUR)
    (tmp_path / "watercolor.safetensors").write_bytes(LORA)
    after = inspect(tmp_path, "ink.safetensors")
    assert after is not None and after != before
    assert not verdict.is_of(after, "layout")


def test_autov3_is_the_hash_of_what_follows_the_header(tmp_path: Path) -> None:
    """As in AUTOMATIC1111's addnet_hash_safetensors: from behind the header to the end."""
    behind = 8 + int.from_bytes(LORA[:8], "little")
    expected = hashlib.sha256(LORA[behind:]).hexdigest()[:12]
    assert judge(put(tmp_path, None)).entry.autov3 == expected
    entry = judge(put(tmp_path, FOUR)).entry
    assert (entry.autov3, entry.to_pb().autov3_hash) == (expected, expected)


def test_autov3_of_a_file_of_many_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_PIECE_BYTES", 100)
    data = lora_bytes(1)
    (tmp_path / "ink.safetensors").write_bytes(data)
    found = inspect(tmp_path, "ink.safetensors")
    assert found is not None
    entry = judge(found).entry
    behind = 8 + int.from_bytes(data[:8], "little")
    assert entry.content_hash == hashlib.sha256(data).hexdigest()
    assert entry.autov3 == hashlib.sha256(data[behind:]).hexdigest()[:12]


@pytest.mark.parametrize(
    ("sidecar", "reason"),
    [
        (b"", "is not a JSON object"),
        (FOUR[:20], "is not a JSON object"),
        (b"[" * 100_000, "is not a JSON object"),
        (b"\xff", "is not a JSON object"),
        (b"[1]", "is not a JSON object"),
        (b" " * (MAX_SIDECAR_BYTES + 1), "has 1,048,577 bytes and 1,048,576 is the limit"),
        (b"{}", "gives none of peft_type, r and lora_alpha"),
        (b'{"r": 4, "lora_alpha": 4, "lora_alpha": 16}', "gives 'lora_alpha' twice"),
        (b'{"r": 8, "lora_alpha": 8}', "gives rank 8 for img_in and its weights have rank 4"),
    ],
    ids=["empty", "half", "deep", "no text", "list", "huge", "nothing", "twice", "other rank"],
)
def test_a_sidecar_that_is_not_understood_refuses_the_adapter(
    tmp_path: Path, sidecar: bytes, reason: str
) -> None:
    refusal = judge(put(tmp_path, sidecar)).entry.refusal
    assert refusal.startswith(SIDECAR_NAME) and reason in refusal


@pytest.mark.parametrize("kind", ["written", "replaced", "gone", "folder", "link", "pipe"])
def test_a_sidecar_that_is_not_the_admitted_one_is_a_change(tmp_path: Path, kind: str) -> None:
    found = put(tmp_path, FOUR)
    path = tmp_path / SIDECAR_NAME
    if kind == "written":
        with path.open("ab") as file:
            file.write(b" ")
    else:
        path.rename(tmp_path / "aside")
    match kind:
        case "replaced":
            path.write_bytes(FOUR)
        case "folder":
            path.mkdir()
        case "link":
            path.symlink_to("aside")
        case "pipe":
            os.mkfifo(path)
    with pytest.raises(FileChangedError):
        judge(found)


def test_a_sidecar_written_while_it_is_read_is_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, read = put(tmp_path, FOUR), loading.read_bytes

    def writing(file: Any, count: int) -> bytes:
        content = read(file, count)
        (tmp_path / SIDECAR_NAME).write_bytes(FOUR[:-1])
        return content

    monkeypatch.setattr(loading, "read_bytes", writing)
    with pytest.raises(FileChangedError):
        judge(found)
