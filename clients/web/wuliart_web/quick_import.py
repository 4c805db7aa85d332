"""Importing gradio in half the time, so that a page that ended is back soon.

Owns what is left out while gradio is imported; knows nothing of what is done with it.
"""

from __future__ import annotations

import gc
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def quick_import() -> Iterator[None]:
    """While it lasts, importing gradio costs what its code costs and nothing is collected.

    Gradio 6 parses the source of every component at each import and writes a ``.pyi`` file beside
    it, for editors: 1.0 to 1.7 s of 2.4 to 3.4, and there is no setting against it. It does so for
    classes whose file it can find (``gradio/component_meta.py``, `create_or_modify_pyi`), so none
    of its own is found here; all else finds its files as ever. Should gradio change, nothing
    breaks: the import takes longer again, and a test says so.
    """
    find = inspect.getfile

    def find_but_for_components(thing: Any) -> str:
        if isinstance(thing, type) and thing.__module__.startswith("gradio."):
            raise OSError(f"{thing.__qualname__}: its file is not looked for during the import")
        return find(thing)

    inspect.getfile = find_but_for_components  # type: ignore[assignment]
    # Nothing of what is imported is garbage.
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        inspect.getfile = find
