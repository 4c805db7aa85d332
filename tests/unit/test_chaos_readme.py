"""Tests that the table of failure tests refers to tests that exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
README = (TESTS / "chaos" / "README.md").read_text(encoding="utf-8")
FILES = sorted(set(re.findall(r"`((?:chaos|e2e|integration|unit)/\w+)", README)))


def named_tests() -> Iterator[tuple[str, str]]:
    """Yields file and name of each test; `…` stands for the file before it."""
    file = ""
    for named, test in re.findall(r"`([\w/]+|…)::(\w+)`", README):
        file = file if named == "…" else named
        yield file, test


@pytest.mark.parametrize("file", FILES)
def test_a_named_file_exists(file: str) -> None:
    assert (TESTS / f"{file}.py").is_file()


@pytest.mark.parametrize(("file", "test"), sorted(set(named_tests())))
def test_a_named_test_exists(file: str, test: str) -> None:
    source = (TESTS / f"{file}.py").read_text(encoding="utf-8")
    assert re.search(rf"^(?:async )?def {test}\(", source, re.M)


@pytest.mark.parametrize("helper", sorted(set(re.findall(r"`(\w+\.py)`", README))))
def test_a_named_helper_exists(helper: str) -> None:
    assert (TESTS / "chaos" / helper).is_file() or (TESTS / "support" / helper).is_file()
