"""Gradio is imported without writing its files for editors, and finds files again afterwards."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import contextlib, inspect, sys
from wuliart_web.gradio_import import fast_gradio_import
stubs = []
def note(event, arguments):
    if event == "open" and str(arguments[0]).endswith(".pyi"):
        stubs.append(arguments[0])
sys.addaudithook(note)
with fast_gradio_import() if sys.argv[1] == "quick" else contextlib.nullcontext():
    import gradio
assert inspect.getfile(gradio.HTML).endswith("html.py"), inspect.getfile(gradio.HTML)
print(len(stubs))
"""


@pytest.mark.parametrize("way", ["quick", "plain"])
def test_no_stub_is_opened_where_gradio_alone_opens_many(way: str) -> None:
    run = [sys.executable, "-c", SCRIPT, way]
    opened = int(subprocess.run(run, check=True, capture_output=True, text=True).stdout)
    assert (opened == 0) == (way == "quick"), opened
