"""A model is found by its folder, or by its id in the hub's cache; there is no network here."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants

from inference_server.config import EMBEDDED_MODEL
from inference_server.errors import ModelError
from inference_server.loading.sources import open_source
from inference_server.model.weights.hub import locate

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, offline."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def test_a_folder_is_itself(cache: Path) -> None:
    assert locate(EMBEDDED_MODEL) == EMBEDDED_MODEL
    assert locate(Path("/nowhere/at/all")) == Path("/nowhere/at/all")


def test_an_id_is_found_in_the_hubs_cache(cache: Path) -> None:
    repository = cache / "models--someone--Qwen-Image-2512"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "snapshots").mkdir()
    (repository / "snapshots" / COMMIT).symlink_to(EMBEDDED_MODEL)
    found = locate(Path("someone/Qwen-Image-2512"))
    assert found == repository / "snapshots" / COMMIT
    assert open_source(Path("someone/Qwen-Image-2512"), None).parameters > 1_000_000


def test_an_unknown_id_is_one_clear_error(cache: Path) -> None:
    with pytest.raises(ModelError, match=r"no folder someone/nothing, and the Hugging Face hub"):
        open_source(Path("someone/nothing"), None)


def test_a_missing_file_is_not_looked_for_on_the_hub(cache: Path) -> None:
    for name in ("models/qwen_image.safetensors", "models/qwen-image.gguf"):
        with pytest.raises(ModelError, match=f"there is no model at {name}"):
            open_source(Path(name), None)
