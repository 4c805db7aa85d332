"""Runs the corpus without an engine: no target fails, and memory is proportional to the input."""

from __future__ import annotations

import tracemalloc

import pytest

from tests.fuzz.targets import CORPUS, TARGETS

MOST_CORPUS_BYTES = 300 << 10


@pytest.mark.parametrize("name", TARGETS)
def test_kept_inputs(name: str) -> None:
    target = TARGETS[name]
    inputs = {path.name: path.read_bytes() for path in sorted((CORPUS / name).iterdir())}
    assert len(inputs) >= 5
    for kept, data in inputs.items():
        assert len(data) <= target.most_bytes, kept
        target.run(data)  # loads modules and caches, which do not count for the input
        tracemalloc.start()
        try:
            target.run(data)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < (2 << 20) + 40 * len(data), kept


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_make_no_target_fail(name: str) -> None:
    for data in TARGETS[name].seeds().values():
        TARGETS[name].run(data)


def test_the_corpus_stays_small() -> None:
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) < (
        MOST_CORPUS_BYTES
    )
