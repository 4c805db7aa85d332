"""ComfyUI's folder is searched by name; what is not clear is refused with the choices."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import pytest
import torch
from rich.console import Console
from rich.progress import Progress

from inference_server.errors import ModelError
from inference_server.loading.prepare import prepare
from inference_server.loading.sources import open_checkpoint, open_source
from inference_server.model.weights.comfy_folder import find, folder_around, models_folder
from inference_server.model_parts import ModelParts
from inference_server.weight_kind import WeightKind
from tests.support.published_checkpoint import make_published_checkpoint
from tests.support.single_files import (
    Form,
    Tensors,
    Written,
    comfy_text_names,
    component_tensors,
    old_scaled,
    plain,
    wan_names,
    write_single,
)

TRANSFORMER = "diffusion_models/qwen_image_2512_fp8_scaled.safetensors"
TEXT = "text_encoders/qwen_2.5_vl_7b_fp8_scaled.safetensors"
VAE = "vae/qwen_image_vae.safetensors"
OTHERS = (
    "diffusion_models/flux1-dev.safetensors",
    "diffusion_models/qwen_image_edit_2509_fp8_e4m3fn.safetensors",
    "diffusion_models/qwen_image_layered_bf16.safetensors",
    "diffusion_models/Qwen-Rapid-AIO-v10.safetensors",
    "diffusion_models/qwen_edit_2511.safetensors",
    "diffusion_models/.qwen_image_bf16.safetensors",
    "diffusion_models/._qwen_image_2512_bf16.safetensors",
    "diffusion_models/qwen_image_bf16.safetensors.part",
    "diffusion_models/qwen_image_bf16.ckpt",
    "diffusion_models/wan2.1_t2v_14B.safetensors",
    "text_encoders/clip_l.safetensors",
    "text_encoders/qwen_2.5_vl_3b.safetensors",
    "text_encoders/Qwen2.5-VL-32B-Instruct-Q4_K_M.gguf",
    "text_encoders/qwen2.5-vl-72b-fp8.safetensors",
    "text_encoders/Qwen2.5-VL-7B-Instruct-mmproj-BF16.gguf",
    "loras/Qwen-Image-Lightning-4steps-V1.0.safetensors",
    "vae/ae.safetensors",
    "vae/wan_2.1_vae.safetensors",
    "vae/qwen_image_layered_vae.safetensors",
)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A `models` folder of empty files."""
    for name in (TRANSFORMER, TEXT, VAE, *OTHERS):
        (tmp_path / "models" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "models" / name).touch()
    return tmp_path / "models"


def test_the_files_are_found_among_others(models: Path) -> None:
    expected = {
        component: models / name
        for component, name in (("transformer", TRANSFORMER), ("text_encoder", TEXT), ("vae", VAE))
    }
    assert find(models, expected) == expected
    (models / "diffusion_models" / "qwen_image_gone.safetensors").symlink_to("/nowhere/at/all")
    assert find(models, expected) == expected
    assert models_folder(models) == models_folder(models.parent) == models
    assert models_folder(models / "diffusion_models") == models
    assert models_folder(models / "vae") is None
    deep = models / "unet" / "qwen" / "x.safetensors"
    assert folder_around(deep) == models
    assert folder_around(models / "checkpoints" / "x.safetensors") is None


def test_old_folder_names_and_inner_folders_are_searched(tmp_path: Path) -> None:
    names = {
        "transformer": "unet/qwen/Qwen-Image-Q8_0.gguf",
        "text_encoder": "clip/a b/QWEN 2.5 VL 7B.SFT",
    }
    for name in names.values():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    (tmp_path / "unet" / "circle").symlink_to(tmp_path)
    found = find(tmp_path, names)
    assert found == {component: tmp_path / name for component, name in names.items()}


@pytest.mark.parametrize(
    ("second", "option"),
    [
        ("diffusion_models/qwen_image_bf16.safetensors", "--model FILE"),
        ("unet/qwen-image-Q4_K_M.gguf", "--model FILE"),
        ("clip/qwen_2.5_vl_7b.safetensors", "--text-encoder FILE"),
        ("vae/old/Qwen_Image-VAE.safetensors", "--vae FILE"),
    ],
)
def test_of_several_files_the_operator_says_which(models: Path, second: str, option: str) -> None:
    (models / second).parent.mkdir(parents=True, exist_ok=True)
    (models / second).touch()
    with pytest.raises(ModelError, match="holds 2 files that may be") as error:
        open_checkpoint(models)
    assert second in str(error.value) and str(error.value).endswith(f"Say which with {option}")


def test_a_folder_without_a_transformer_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "diffusion_models").mkdir()
    (tmp_path / "diffusion_models" / "flux1-dev.safetensors").touch()
    with pytest.raises(ModelError, match=r"no file in .* is a Qwen-Image transformer by its name"):
        open_checkpoint(tmp_path)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_published_checkpoint(tmp_path_factory.mktemp("published") / "Qwen-Image-2512")


def test_a_whole_folder_is_opened_with_the_packages_configs(
    published: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tensors: dict[str, Tensors] = {
        TRANSFORMER: component_tensors(published, "transformer"),
        TEXT: comfy_text_names(component_tensors(published, "text_encoder")),
        VAE: wan_names(component_tensors(published, "vae"), res_blocks=2),
    }
    for name, part in tensors.items():
        write_single(tmp_path / name, part, plain(torch.bfloat16) if name == VAE else old_scaled())
    with caplog.at_level(logging.INFO):
        source = open_source(tmp_path, None)
    for name in tensors:
        assert str(tmp_path / name) in caplog.text
    assert source.name == Path(TRANSFORMER).stem
    assert source.config("transformer")["num_layers"] == 2
    assert source.config("text_encoder")["num_attention_heads"] == 2
    assert source.config("vae")["base_dim"] == 8
    said = io.StringIO()
    with Progress(console=Console(file=said, width=10_000)) as progress:
        prepare(tmp_path, None, tmp_path / "out", progress=progress)
    assert all(str(tmp_path / name) in said.getvalue() for name in tensors)
    assert open_source(tmp_path / "out", None).kind is WeightKind.FP8
    beside = open_source(tmp_path / TRANSFORMER, None)
    assert beside.config("text_encoder") == source.config("text_encoder")


@pytest.mark.parametrize("form", [plain(torch.bfloat16), old_scaled()])
@pytest.mark.parametrize("vae_prefix", ["vae.", "first_stage_model."])
def test_a_checkpoint_that_comfyui_saved_holds_everything(
    form: Form, vae_prefix: str, published: Path, tmp_path: Path
) -> None:
    parts = {
        "transformer": ("model.diffusion_model.", component_tensors(published, "transformer")),
        "text_encoder": (
            "text_encoders.qwen25_7b.transformer.",
            comfy_text_names(component_tensors(published, "text_encoder")),
        ),
        "vae": (vae_prefix, wan_names(component_tensors(published, "vae"), res_blocks=2)),
    }
    whole, apart = tmp_path / "qwen_aio.safetensors", {}
    tensors: Tensors = {}
    for component, (prefix, part) in parts.items():
        apart[component] = tmp_path / f"{component}.safetensors"
        written = write_single(
            apart[component], part, plain(torch.bfloat16) if component == "vae" else form
        )
        tensors |= {prefix + name: tensor for name, tensor in written.tensors.items()}
    write_single(whole, tensors, lambda kept: Written(kept, {}, kept))

    checkpoint = open_checkpoint(whole)
    expected = open_checkpoint(
        apart["transformer"], ModelParts(text_encoder=apart["text_encoder"], vae=apart["vae"])
    )
    for component in parts:
        weights, single = checkpoint.weights(component), expected.weights(component)
        assert set(weights) == set(single)
        assert all(torch.equal(weights.read(name), single.read(name)) for name in single)
        assert checkpoint.config(component) == expected.config(component)
    assert (
        open_source(whole, None).stored_kind
        is open_source(
            apart["transformer"], None, parts=ModelParts(apart["text_encoder"], apart["vae"])
        ).stored_kind
    )
    other = open_checkpoint(whole, ModelParts(vae=apart["vae"]))
    assert other.weights("vae").where == apart["vae"]
    assert other.weights("text_encoder").where == whole
    prepare(whole, None, tmp_path / "out", progress=Progress(disable=True))
    assert open_source(tmp_path / "out", None).stored_kind is open_source(whole, None).stored_kind


def test_a_text_encoder_of_another_size_is_refused(published: Path, tmp_path: Path) -> None:
    transformer = component_tensors(published, "transformer")
    transformer["txt_in.weight"] = torch.zeros(len(transformer["txt_in.weight"]), 384)
    transformer["txt_norm.weight"] = torch.zeros(384)
    write_single(tmp_path / "qwen_image.safetensors", transformer, plain(torch.bfloat16))
    with pytest.raises(ModelError, match=r"text_encoder gives 256 features a token, .* takes 384"):
        open_source(
            tmp_path / "qwen_image.safetensors", None, parts=ModelParts(components=published)
        )


def test_what_is_missing_is_named(published: Path, tmp_path: Path) -> None:
    model = tmp_path / "qwen_image.safetensors"
    write_single(model, component_tensors(published, "transformer"), plain(torch.bfloat16))
    with pytest.raises(ModelError, match="without text encoder and VAE: give --text-encoder FILE"):
        open_checkpoint(model)
    # What a file is comes before what it lacks.
    with pytest.raises(ModelError, match=r"ink\.safetensors is a LoRA, .*--turbo-lora"):
        open_checkpoint(Path(__file__).parents[2] / "loras" / "ink.safetensors")
    with pytest.raises(ModelError, match="for a --model that is a file"):
        open_checkpoint(published, ModelParts(components=published))
    with pytest.raises(ModelError, match=r"vae is a folder: give the file in it, .*--components"):
        open_checkpoint(model, ModelParts(published / "vae", published / "vae"))
    with pytest.raises(ModelError, match="or give single files with --model FILE"):
        open_checkpoint(tmp_path)
    checkpoint = open_checkpoint(model, ModelParts(components=published))
    assert checkpoint.weights("vae").where == published / "vae"
