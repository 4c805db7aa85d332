"""Untrusted checkpoints and prepared folders: each is used, or refused with one line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.progress import Progress
from safetensors.torch import load_file, save_file

from inference_server.config import EMBEDDED_MODEL, EMBEDDED_TURBO
from inference_server.errors import ModelError
from inference_server.loading.prepare import prepare
from inference_server.loading.sources import open_source
from inference_server.model.preview import preview_projection
from inference_server.model.prompt import PromptTokenizer
from inference_server.model.schedule import ScheduleTable
from inference_server.model.text_encoder import TextConfig
from inference_server.model.transformer_weights import TransformerConfig
from inference_server.model.vae import VaeConfig, VaeDecoder
from inference_server.model.weights import manifest
from inference_server.model.weights import prepared_files as files
from tests.support.hostile_checkpoints import (
    INDEX,
    TEXT,
    TRANSFORMER,
    VAE,
    Damage,
    changed,
    content,
    copy,
    cut,
    header,
    index,
    linked,
    one_tensor,
    piped,
    put,
    two_shards,
)

CPU = torch.device("cpu")
CONFIGS = {
    "transformer/config.json": TransformerConfig.from_json,
    "text_encoder/config.json": TextConfig.from_json,
    "vae/config.json": VaeConfig.from_json,
}
DEEP = "[" * 100_000
MOST_MESSAGE = 700


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(EMBEDDED_MODEL, tmp_path_factory.mktemp("original") / "model")


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return copy(original, tmp_path / "model")


def read(folder: Path, turbo: Path | None = None) -> None:
    """Reads every part of a model."""
    source = open_source(folder, turbo)
    levels = ScheduleTable.build(source.schedule.schedule).rows
    PromptTokenizer(source)
    vae = VaeDecoder(VaeConfig.from_json(source.config("vae")), source.vae(), CPU, torch.float32)
    preview_projection(source, vae, CPU)
    if source.kind is not None:
        source.tables(TransformerConfig.from_json(source.config("transformer")), levels)
        source.edges()
        source.text_edges()


def refusal(folder: Path, turbo: Path | None = None) -> str:
    with pytest.raises(ModelError) as caught:
        read(folder, turbo)
    message = str(caught.value)
    assert message.isprintable() and len(message) < MOST_MESSAGE
    return message


LINKS: dict[str, tuple[Damage, str]] = {
    "config": (linked("vae/config.json", "/etc/passwd"), "outside"),
    "tokenizer": (linked("tokenizer/vocab.json", "/etc/passwd"), "outside"),
    "shadow": (linked("tokenizer/merges.txt", "/etc/shadow"), "outside"),
    "weights": (linked(TEXT, str(EMBEDDED_MODEL / TEXT)), "outside"),
    "folder": (linked("vae", str(EMBEDDED_MODEL / "vae")), "outside"),
    "up": (linked("scheduler/scheduler_config.json", "../../elsewhere.json"), "No such file"),
    "circle": (linked("vae/config.json", "config.json"), "cannot read"),
}
PIPES = [
    "transformer/config.json",
    "scheduler/scheduler_config.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/added_tokens.json",
    "vae/preview.json",
    TRANSFORMER,
]
CONTENTS: dict[str, tuple[Damage, str]] = {
    "no object": (content("vae/config.json", "[]"), "JSON object"),
    "no text": (content("vae/config.json", b"\xff\xfe"), "cannot read"),
    "deep": (content("transformer/config.json", DEEP), "nested"),
    "deep index": (lambda f: (index({})(f), put(f / INDEX, DEEP))[0], "nested"),
    "no number": (content("vae/config.json", '{"z_dim": NaN}'), "NaN"),
    "long number": (content("vae/config.json", f'{{"z_dim": {"9" * 5000}}}'), "cannot read"),
    "large config": (content("vae/config.json", " " * (1 << 20) + "{}"), "larger"),
    "zeros": (cut("tokenizer/tokenizer.json", 1 << 31), "larger"),
    "no tokenizer": (content("tokenizer/tokenizer.json", "{}"), "tokenizer"),
    "another vocabulary": (
        changed("tokenizer/tokenizer.json", ("model", "vocab"), {}),
        "tokenizer",
    ),
    "empty weights": (content(TRANSFORMER, b""), "damaged"),
    "no weights": (content(TRANSFORMER, b"rubbish" * 100), "damaged"),
    "cut weights": (cut(TRANSFORMER, 1_000_000), "damaged"),
    "longer weights": (cut(TEXT, 100_000_000), "damaged"),
    "huge header": (content(VAE, b"\xff" * 7 + b"\0" + b"{}"), "header"),
    "deep header": (content(VAE, header(DEEP)), "damaged"),
    "huge tensor": (
        content(TRANSFORMER, one_tensor("F32", [99999999999], b"1234")),
        "damaged",
    ),
    "strange elements": (
        content(TRANSFORMER, one_tensor("F4", [2], b"1")),
        "element type",
    ),
    "other tensors": (
        content(TRANSFORMER, one_tensor("F32", [1], b"1234")),
        "layers",
    ),
    "index of nothing": (index(None), "weight_map"),
    "index of a list": (index(["a"]), "weight_map"),
    "index of numbers": (index({"a": 1}), "weight_map"),
    "index upwards": (index({"a": "../text_encoder/model.safetensors"}), "weight_map"),
    "index elsewhere": (index({"a": "/etc/passwd"}), "weight_map"),
    "index of a folder": (index({"a": ".."}), "weight_map"),
    "index of the missing": (index({"a": "model-00001-of-00002.safetensors"}), "missing"),
    "wrong shard": (two_shards(moved="img_in.weight"), "places 'img_in.weight'"),
    "both shards": (two_shards(twice="img_in.weight"), "both hold 'img_in.weight'"),
}  # fmt: skip


@pytest.mark.parametrize("name", LINKS)
def test_a_link_out_of_the_folder_is_refused(name: str, folder: Path) -> None:
    damage, why = LINKS[name]
    damage(folder)
    assert why in refusal(folder)


@pytest.mark.parametrize("file", PIPES)
def test_opening_a_pipe_does_not_block(file: str, folder: Path) -> None:
    piped(file)(folder)
    message = refusal(folder)
    assert "Not a regular file" in message and file in message


@pytest.mark.parametrize("name", CONTENTS)
def test_damaged_content(name: str, folder: Path) -> None:
    damage, why = CONTENTS[name]
    damage(folder)
    assert why in refusal(folder)


HOSTILE = (
    None, "x", -1, 0, 10**9, 10**400, 1.5, 1e308, True, [], {}, [[]], ["a"] * 3, [1e308] * 32,
    [10**9] * 32, "\x1b[2J\n", "x" * 100_000,
)  # fmt: skip
HARMLESS = {"rms_norm_eps": (0,), "rope_theta": (1.5, 10**9), "out_channels": (None,)}


@pytest.mark.parametrize("file", CONFIGS)
def test_every_value_of_a_config_is_checked(file: str, original: Path) -> None:
    """Every key is set to hostile values, and left out."""
    parse = CONFIGS[file]
    whole = json.loads((original / file).read_text())
    expected = parse(whole)
    tables = [whole] + [value for value in whole.values() if isinstance(value, dict)]
    tables += [v for table in tables[1:] for v in table.values() if isinstance(v, dict)]
    refused = set()
    for table in tables:
        for key, value in list(table.items()):
            for hostile in HOSTILE:
                table[key] = hostile
                try:
                    changed_config: Any = parse(whole)
                except ModelError as error:
                    message = str(error)
                    assert message.startswith(file) and message.isprintable()
                    assert len(message) < MOST_MESSAGE
                    refused.add(key)
                    continue
                # Only a valid value, or one that is not read, is accepted.
                assert changed_config == expected or key in {*HARMLESS, "temperal_downsample",
                    "num_res_blocks", "num_layers", "z_dim"}, (key, hostile)  # fmt: skip
            del table[key]
            try:
                parse(whole)
            except ModelError as error:
                assert "\n" not in str(error)
            table[key] = value
    assert len(refused) >= 6


@pytest.mark.parametrize(
    ("file", "path", "value"),
    [
        ("transformer/config.json", ("num_layers",), 5),
        ("transformer/config.json", ("num_layers",), 7),
        ("transformer/config.json", ("num_attention_heads",), 8),
        ("transformer/config.json", ("joint_attention_dim",), 193),
        ("transformer/config.json", ("out_channels",), 33),
        ("text_encoder/config.json", ("text_config", "num_hidden_layers"), 3),
        ("text_encoder/config.json", ("text_config", "num_hidden_layers"), 5),
        ("text_encoder/config.json", ("text_config", "hidden_size"), 384),
        ("text_encoder/config.json", ("text_config", "num_key_value_heads"), 1),
        ("text_encoder/config.json", ("text_config", "intermediate_size"), 513),
        ("vae/config.json", ("base_dim",), 32),
        ("vae/config.json", ("dim_mult",), [1, 2, 4, 8, 8, 16]),
        ("vae/config.json", ("num_res_blocks",), 1),
        ("vae/config.json", ("num_res_blocks",), 3),
        ("vae/config.json", ("temperal_downsample",), [False] * 4),
        ("scheduler/scheduler_config.json", ("shift_terminal",), 1.0),
        ("scheduler/scheduler_config.json", ("max_image_seq_len",), 256),
        ("scheduler/scheduler_config.json", ("base_shift",), 1e308),
        ("vae/preview.json", ("bias",), [1, 2]),
        ("vae/preview.json", ("factors",), [[10**30] * 3] * 32),
    ],
)
def test_a_config_that_the_files_contradict(
    file: str, path: tuple[str, ...], value: Any, folder: Path
) -> None:
    changed(file, path, value)(folder)
    refusal(folder)


def test_a_tokenizers_config_names_no_file_and_no_code(folder: Path) -> None:
    file = "tokenizer/tokenizer_config.json"
    for key, value in (
        ("tokenizer_file", "/etc/passwd"),
        ("vocab_file", "/etc/passwd"),
        ("fast_tokenizer_files", ["../../etc/tokenizer.4.0.0.json"]),
        ("auto_map", {"AutoTokenizer": ["code.Evil", "code.Evil"]}),
        ("model_max_length", "x"),
    ):
        changed(file, (key,), value)(folder)
    put(folder / "tokenizer" / "code.py", "raise SystemExit(7)")
    read(folder)


def test_a_snapshot_in_the_hubs_cache_is_links(original: Path, tmp_path: Path) -> None:
    """The hub's layout: links to blobs of the repository, some of which are shared."""
    repository = tmp_path / "models--Qwen--Qwen-Image"
    snapshot = repository / "snapshots" / ("ab" * 20)
    (repository / "blobs").mkdir(parents=True)
    for number, path in enumerate(sorted(p for p in original.rglob("*") if p.is_file())):
        blob = repository / "blobs" / f"{number:064x}"
        link = snapshot / path.relative_to(original)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
        if number % 2:
            os.link(path, blob)
            continue
        shared = tmp_path / "blobs" / f"{number:02x}" / f"{number:064x}"
        shared.parent.mkdir(parents=True)
        os.link(path, shared)
        blob.symlink_to(os.path.relpath(shared, blob.parent))
    read(snapshot)
    (tmp_path / "secret.json").write_text("{}")
    linked("vae/preview.json", "../../../../secret.json")(snapshot)
    assert "outside" in refusal(snapshot)


@pytest.mark.parametrize("name", ["a pipe", "a device", "a folder", "sparse", "a pickle"])
def test_a_bad_turbo_lora(name: str, folder: Path, tmp_path: Path) -> None:
    turbo = tmp_path / "turbo.safetensors"
    if name == "a pipe":
        os.mkfifo(turbo)
    elif name == "a device":
        turbo.symlink_to("/dev/zero")
    elif name == "a folder":
        turbo.mkdir()
    elif name == "sparse":
        shutil.copy(EMBEDDED_TURBO, turbo)
        os.truncate(turbo, 4 << 30)
    else:
        turbo.write_bytes(b"\x80\x04" + b"x" * 1000)
    assert str(turbo) in refusal(folder, turbo)


READ_CUT = """
import os, sys
from pathlib import Path
from inference_server.errors import ModelError
from inference_server.model.weights.checkpoint import open_shards
files = open_shards(Path(sys.argv[1]).parent, "diffusion_pytorch_model")
os.truncate(sys.argv[1], 100_000)
try:
    for name in files:
        files.read(name)
except ModelError as error:
    print(error)
"""


def test_weights_that_are_truncated_while_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    shutil.copy(EMBEDDED_MODEL / TRANSFORMER, path)
    run = subprocess.run(
        [sys.executable, "-c", READ_CUT, path], capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    assert "became shorter while it was read" in run.stdout


@pytest.fixture(scope="module")
def ready(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "ready"
    prepare(original, None, out, progress=Progress(disable=True))
    return out


def tensors(file: str, change: Any) -> Damage:
    """Changes a file's tensors."""

    def damage(folder: Path) -> None:
        held = load_file(folder / file)
        change(held)
        (folder / file).unlink()
        save_file(held, folder / file)

    return damage


def stated(name: str, value: Any) -> Damage:
    """Changes a field of the manifest and updates its stamp."""

    def damage(folder: Path) -> None:
        content = json.loads((folder / files.MANIFEST).read_text())
        content["about"][name] = value
        content["stamp"] = manifest.stamp_of(content["about"])
        put(folder / files.MANIFEST, json.dumps(content))

    return damage


BLOCK = files.block_file(2)
PREPARED: dict[str, Damage] = {
    "manifest": content(files.MANIFEST, DEEP),
    "piped manifest": piped(files.MANIFEST),
    "linked manifest": linked(files.MANIFEST, "/etc/passwd"),
    "format": changed(files.MANIFEST, ("format",), "1"),
    "no inputs": changed(files.MANIFEST, ("about",), None),
    "other inputs": changed(files.MANIFEST, ("about", "parameters"), 7),
    "stamp": changed(files.MANIFEST, ("stamp",), 7),
    "schedule": stated("schedule", {"name": "x", "shift": -1, "levels": [], "steps": 4}),
    "small files": stated("small_files", []),
    "Turbo LoRA": stated("turbo_lora", ["a\nb"]),
    "weights": stated("weights", ["bf16"]),
    "other weights": stated("weights", "int4"),
    "parameters": stated("parameters", "many"),
    "levels": stated("levels", None),
    "many levels": stated("levels", [1.0] * 1000),
    "more blocks": changed("transformer/config.json", ("num_layers",), 7),
    "fewer blocks": changed("transformer/config.json", ("num_layers",), 5),
    "more layers": changed("text_encoder/config.json", ("text_config", "num_hidden_layers"), 5),
    "wider": changed("text_encoder/config.json", ("text_config", "intermediate_size"), 1024),
    "linked block": linked(BLOCK, str(EMBEDDED_TURBO)),
    "piped block": piped(BLOCK),
    "cut block": cut(BLOCK, 1000),
    "empty block": tensors(BLOCK, lambda held: held.update(flat=held["flat"][:10].clone())),
    "nameless block": tensors(BLOCK, lambda held: held.update(x=held.pop("flat"))),
    "tables": tensors(files.TABLES, lambda held: held.update(final=held["final"][:1].clone())),
    "no tables": tensors(files.TABLES, lambda held: held.pop("blocks")),
    "edges": tensors(files.EDGES, lambda held: held.pop("txt_norm")),
    "text edges": tensors(
        files.TEXT_EDGES, lambda held: held.update(embedding=held["final_norm"].clone())
    ),
}


@pytest.mark.parametrize("name", PREPARED)
def test_a_prepared_folder(name: str, ready: Path, tmp_path: Path) -> None:
    folder = copy(ready, tmp_path / "copy")
    PREPARED[name](folder)
    refusal(folder)


def test_an_intact_prepared_folder_is_read(ready: Path, original: Path, tmp_path: Path) -> None:
    read(ready)
    (tmp_path / "file").touch()
    for out, why in (("file", "is not a folder"), (".", "something else")):
        with pytest.raises(ModelError, match=why):
            prepare(original, None, tmp_path / out, progress=Progress(disable=True))
