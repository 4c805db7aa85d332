"""`wuliart-server prepare` on a checkpoint of Qwen-Image's real size: its memory and its time.

`python -m benchmarks.full_size prepare FOLDER` writes a stock checkpoint and a Turbo LoRA of the
real shapes, as sparse files of zeros that occupy no disk space, prepares them in a process of its
own, and prints a table and one line of JSON. Needs 45 GB of free disk in FOLDER and no GPU. With
`--form` it prepares single files with random content instead (`random_files`), which do occupy disk
space: 30 GB more for scaled fp8.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel
from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from benchmarks.full_size.random_files import FORMS, write_models
from benchmarks.full_size.random_model import QWEN_VL
from benchmarks.report import Figure, print_table
from inference_server.config import EMBEDDED_MODEL

RANK = 64
WEIGHTS = (".safetensors", ".gguf")
SHARD_BYTES = 5_000_000_000


def sparse(path: Path, tensors: Mapping[str, tuple[int, ...]]) -> None:
    """Writes a safetensors file of bf16 zeros that occupies only its header on disk."""
    header, offset = {}, 0
    for name, shape in tensors.items():
        end = offset + 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
    os.truncate(path, 8 + len(text) + offset)


def shards(folder: Path, stem: str, state: Mapping[str, Tensor]) -> None:
    """Writes a component's weights in shards, with their index."""
    groups: list[dict[str, tuple[int, ...]]] = [{}]
    size = 0
    for name, tensor in state.items():
        if size > SHARD_BYTES:
            groups.append({})
            size = 0
        groups[-1][name] = tuple(tensor.shape)
        size += 2 * tensor.numel()
    where: dict[str, str] = {}
    for number, group in enumerate(groups, 1):
        file = f"{stem}-{number:05}-of-{len(groups):05}.safetensors"
        sparse(folder / file, group)
        where |= dict.fromkeys(group, file)
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps({"weight_map": where}))


def checkpoint(folder: Path) -> Path:
    """Writes a checkpoint of Qwen-Image's shapes; returns the Turbo LoRA written beside it."""
    with torch.device("meta"):
        transformer: Any = QwenImageTransformer2DModel()
        vae: Any = AutoencoderKLQwenImage()
        text: Any = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=QWEN_VL))
    for component in ("tokenizer", "scheduler"):
        shutil.copytree(EMBEDDED_MODEL / component, folder / component, dirs_exist_ok=True)
    for component, model, stem in (
        ("transformer", transformer, "diffusion_pytorch_model"),
        ("text_encoder", text, "model"),
    ):
        state = model.state_dict()
        shards(folder / component, stem, state)
        save = model.save_config if hasattr(model, "save_config") else model.config.save_pretrained
        save(folder / component)
    names = {name: tuple(tensor.shape) for name, tensor in vae.state_dict().items()}
    sparse(folder / "vae" / "diffusion_pytorch_model.safetensors", names)
    vae.save_config(folder / "vae")
    factors = {}
    for name, module in transformer.named_modules():
        if isinstance(module, torch.nn.Linear) and name.startswith("transformer_blocks."):
            factors[f"transformer.{name}.lora_A.weight"] = (RANK, module.in_features)
            factors[f"transformer.{name}.lora_B.weight"] = (module.out_features, RANK)
    turbo = folder.with_name("turbo.safetensors")
    sparse(turbo, factors)
    return turbo


def main() -> None:
    """Writes the checkpoint, prepares it, reports, and removes the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--form",
        choices=FORMS,
        help="single files with random content instead of the sparse folder",
    )
    parser.add_argument("--blocks", type=int, default=60, help="of the single file; default: all")
    parser.add_argument("--layers", type=int, default=28, help="of the text encoder; default: all")
    chosen = parser.parse_args()
    root, out = chosen.folder, chosen.folder / "prepared"
    if chosen.form is None:
        turbo = checkpoint(root / "stock")
        arguments = ["--model", str(root / "stock"), "--turbo-lora", str(turbo)]
    else:
        model, text, vae = write_models(root / "stock", chosen.form, chosen.blocks, chosen.layers)
        arguments = ["--model", str(model), "--text-encoder", str(text), "--vae", str(vae)]
    began = time.perf_counter()
    command = [sys.executable, "-m", "inference_server", "prepare", *arguments, "--out", str(out)]
    subprocess.run(command, check=True)
    seconds = time.perf_counter() - began
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    peak, cpu = used.ru_maxrss / 1e6, used.ru_utime + used.ru_stime
    size = sum(path.stat().st_size for path in out.rglob("*.safetensors")) / 1e9
    kept = (root / "stock").rglob("*.*")
    read = sum(path.stat().st_size for path in kept if path.suffix in WEIGHTS) / 1e9
    shutil.rmtree(out)
    shutil.rmtree(root / "stock")
    what = f"{read:.1f} GB of sparse zeros"
    if chosen.form is None:
        turbo.unlink()
    else:
        what = f"{chosen.form}, {chosen.blocks} blocks, {chosen.layers} layers, {read:.1f} GB"
    note = f"{what} to {size:.1f} GB in {seconds:.0f} s, {cpu:.0f} s of processors"
    print_table([Figure("prepare, peak host memory", peak, "GB", 8, note=note)])


if __name__ == "__main__":
    main()
