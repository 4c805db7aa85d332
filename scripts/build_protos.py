"""Generates the Python stubs beside the .proto files: `python scripts/build_protos.py`.

Also called by the wheel's build hook. Needs grpcio-tools and mypy-protobuf; writes only files
that git ignores.
"""

from __future__ import annotations

import shutil
import sys
from importlib.resources import files
from pathlib import Path

PLUGINS = ("protoc-gen-mypy", "protoc-gen-mypy_grpc")


def plugin_path(name: str) -> str:
    """The plugin beside this interpreter or on PATH.

    Raises:
        SystemExit: it is installed nowhere.
    """
    beside = Path(sys.executable).parent / name
    found = shutil.which(name) or (str(beside) if beside.exists() else None)
    if found is None:
        raise SystemExit(f"{name} is not installed: pip install mypy-protobuf")
    return found


def generate(root: Path) -> list[Path]:
    """Compiles every .proto below `root`/protos; returns the generated files.

    Raises:
        SystemExit: protoc refused a file.
    """
    from grpc_tools import protoc

    protos = root / "protos"
    sources = sorted(protos.rglob("*.proto"))
    code = protoc.main(
        [
            "protoc",
            f"-I{protos}",
            f"-I{files('grpc_tools') / '_proto'}",
            *(f"--plugin={name}={plugin_path(name)}" for name in PLUGINS),
            f"--python_out={protos}",
            f"--grpc_python_out={protos}",
            f"--mypy_out=quiet:{protos}",
            f"--mypy_grpc_out=quiet:{protos}",
            *(str(source) for source in sources),
        ]
    )
    if code != 0:
        raise SystemExit(f"protoc failed with exit code {code}")
    return sorted(protos.rglob("*_pb2*.py*"))


if __name__ == "__main__":
    for path in generate(Path(__file__).resolve().parent.parent):
        print(path)
