"""The real server, whose device or encoder fails once at one exact stage.

    python -m tests.chaos.server_at ARM ...

`ARM` is a folder: the first time a stage is reached while a file of its name is there, the file is
removed and the stage raises. Everything after it is the server's own command line.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from inference_server.__main__ import main
from inference_server.engine.engine import Engine
from inference_server.scheduler import batch, jpeg_thread

STAGES = ("encode", "begin", "step", "check_finite", "preview", "decode", "rest")
ENCODERS = {"encode_preview": batch, "encode_image": jpeg_thread}
"""JPEG: where each is called from."""


def _failing(original: Callable[..., Any], arm: Path) -> Callable[..., Any]:
    def acting(*arguments: Any, **options: Any) -> Any:
        if arm.exists():
            arm.unlink()
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return original(*arguments, **options)

    return acting


def run() -> None:
    folder = Path(sys.argv.pop(1))
    for stage in STAGES:
        setattr(Engine, stage, _failing(getattr(Engine, stage), folder / stage))
    for name, module in ENCODERS.items():
        setattr(module, name, _failing(getattr(module, name), folder / name))
    main()


if __name__ == "__main__":
    run()
