"""Tests of the store of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.quality.store import Store, StoreEntry, fingerprint


def test_other_weights_never_find_stored_images(tmp_path: Path) -> None:
    weights = tmp_path / "checkpoint"
    weights.mkdir()
    (weights / "a").write_bytes(b"1")
    before = fingerprint([weights], "cpu")
    kept = StoreEntry({"seconds": 1.5}, np.arange(12, dtype=np.uint8).reshape(3, 2, 2))
    store = Store(tmp_path / "kept", fresh=False)
    store.write(before, "fox", kept)
    found = store.read(before, "fox")
    assert found is not None and found.image is not None and kept.image is not None
    assert found.facts == kept.facts and (found.image == kept.image).all()
    assert store.read(before, "owl") is None
    assert Store(tmp_path / "kept", fresh=True).read(before, "fox") is None

    (weights / "a").write_bytes(b"2")
    assert fingerprint([weights], "cpu") != before != fingerprint([weights], "cuda")
    assert store.read(fingerprint([weights], "cpu"), "fox") is None
