"""Imports gradio in half the time, so that a page that was stopped is back soon."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def fast_gradio_import() -> Iterator[None]:
    """Keeps gradio from writing its editor stubs, and Python from collecting garbage, meanwhile.

    Gradio 6 parses the source of every component at each import and writes a ``.pyi`` file beside
    it: 1.0 to 1.7 s of 2.4 to 3.4, and no setting turns it off. It does so for classes whose file
    it finds (``gradio/component_meta.py``, `create_or_modify_pyi`), so inside this context
    `inspect.getfile` fails for gradio's own classes. If gradio changes, the import takes longer
    again and tests/unit/test_gradio_import.py fails.
    """
    find = inspect.getfile

    def find_unless_gradio(thing: Any) -> str:
        if isinstance(thing, type) and thing.__module__.startswith("gradio."):
            raise OSError(f"{thing.__qualname__}: its file is hidden while gradio is imported")
        return find(thing)

    inspect.getfile = find_unless_gradio  # type: ignore[assignment]
    gc.disable()  # imports produce almost no garbage
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        inspect.getfile = find
